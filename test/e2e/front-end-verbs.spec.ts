import { BLK_STATUS, BLK_TYPE, RING_FEATURE, bits } from '@cairn/virtio/testing';
import { FakeBlkDisk, type FakeDiskOptions } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startExport } from '../support/export-process.js';
import { exerciseAgainstModel } from '../support/model-disk.js';
import { Random } from '../support/random.js';
import { serveDisks, type ServedDisks } from '../support/served-disks.js';

const MiB = 2 ** 20;
const SIZE = 8 * MiB;

describe.each([
  ['split', false],
  ['packed', true],
])('cairn export and what a front-end with %s rings asks while its guest runs', (_, packed) => {
  let served: ServedDisks;
  beforeAll(async () => {
    served = await serveDisks(startExport, { sizeBytes: SIZE, numQueues: 4 });
  });
  afterAll(() => served.close());

  const opened: FakeBlkDisk[] = [];
  afterEach(() => opened.splice(0).forEach((disk) => disk.close()));
  const open = async (options: FakeDiskOptions = {}) => {
    const disk = await FakeBlkDisk.open(served.sockets[0]!, { packed, numQueues: 2, ...options });
    opened.push(disk);
    return disk;
  };
  const exercise = (disk: FakeBlkDisk, seed: number, requests = 120) =>
    exerciseAgainstModel(disk, new Random(seed), {
      model: served.content(),
      requests,
      depth: 16,
      indirect: disk.has(RING_FEATURE.INDIRECT_DESC),
      mixed: !packed,
      maxPieces: 30,
    });

  it('serves the layout that was asked for', async () => {
    const disk = await open({ numQueues: 4 });
    expect(disk.has(RING_FEATURE.RING_PACKED)).toBe(packed);
    const model = await exercise(disk, 1);
    expect(served.content().equals(model)).toBe(true);
    expect(await disk.stop()).toEqual(disk.queues.map(({ ring }) => ring.drainedBase));
  });

  it('takes a driver that wants the least there is', async () => {
    const disk = await open({ features: bits(RING_FEATURE.VERSION_1), numQueues: 1 });
    await disk.write(0, Buffer.alloc(4096, 5));
    expect(Buffer.from(await disk.read(0, 4096))).toEqual(Buffer.alloc(4096, 5));
    expect(disk.features & ~bits(RING_FEATURE.RING_PACKED)).toBe(bits(RING_FEATURE.VERSION_1));
  });

  it('is told of memory region by region, and of more and less while it serves', async () => {
    const disk = await open({ memorySlots: true });
    expect(await disk.frontend.getMaxMemSlots()).toBeGreaterThanOrEqual(32);
    for (let round = 0; round < 4; round += 1) {
      const load = exercise(disk, 10 + round, 60);
      const dimm = await disk.plugMemory({ gpa: 0x8_0000_0000, sizeBytes: 4 * MiB });
      await load;
      await disk.write(0, Buffer.alloc(65_536, round));
      const more = exercise(disk, 20 + round, 60);
      await more;
      await disk.unplugMemory(dimm);
      expect(Buffer.from(await disk.read(0, 512))).toHaveLength(512);
    }
  });

  it('marks what it writes while a migration runs, and nothing before or after', async () => {
    const disk = await open();
    await disk.read(0, 4096);
    const log = await disk.startLog();
    log.take();
    const before = log.pages();
    const marked = new Set<number>();
    const gpa = disk.ram.allocate(8192, 4096);
    disk.ram.bytes(gpa, 16).fill(0);
    const header = disk.ram.allocate(16);
    const status = disk.ram.allocate(1);
    disk.ram.setU32(header, BLK_TYPE.IN);
    disk.ram.setU64(header + 8, 0);
    const queue = disk.queues[0]!;
    await disk.raw(queue, [
      { gpa: header, lengthBytes: 16, writable: false },
      { gpa, lengthBytes: 8192, writable: true },
      { gpa: status, lengthBytes: 1, writable: true },
    ]);
    for (const page of log.take()) marked.add(page);
    const pageOf = (at: number) => at - (at % 4096);
    const usedRing = packed ? queue.ring.descGpa : queue.ring.usedGpa;
    for (const at of [gpa, gpa + 4096, status, usedRing])
      expect(marked.has(pageOf(at)), `page of ${at}`).toBe(true);
    expect(before).toEqual([]);
    // Read by the device only.
    expect(marked.has(pageOf(header)) && pageOf(header) !== pageOf(status)).toBe(false);
    await disk.stopLog();
    log.take();
    await disk.read(0, 4096);
    expect(log.pages()).toEqual([]);
  });

  it.each([
    ['message', false],
    ['status', false],
    ['message', true],
    ['status', true],
  ] as const)('starts over after a reset by %s (in-flight area: %s)', async (how, inflight) => {
    const disk = await open({ inflight });
    await disk.setWriteback(false);
    await disk.frontend.setStatus(15);
    expect(await disk.frontend.getStatus()).toBe(15);
    for (let i = 0; i < 5; i += 1) await disk.write(512 * i, Buffer.alloc(512, i));
    await disk.reset(how);
    expect(await disk.frontend.getStatus()).toBe(0);
    // A status of 0 is also what QEMU says when it pauses or migrates a guest, who keeps its cache turned off.
    expect((await disk.readConfig()).writeback).toBe(how === 'message' ? 1 : 0);
    expect(Buffer.from(await disk.read(512, 512))).toEqual(Buffer.alloc(512, 1));
    expect(await disk.stop()).toEqual(disk.queues.map(({ ring }) => ring.drainedBase));
  });

  it.each([false, true])('resets one queue while another goes on (in-flight area: %s)', async (inflight) => {
    const disk = await open({ inflight });
    const other = (async () => {
      for (let i = 0; i < 60; i += 1) await disk.write(4096, Buffer.alloc(4096, i), { queue: 1 });
    })();
    for (let round = 0; round < 5; round += 1) {
      await disk.write(0, Buffer.alloc(512, round));
      await disk.resetQueue(disk.queues[0]!);
    }
    await other;
    expect(Buffer.from(await disk.read(0, 512))).toEqual(Buffer.alloc(512, 4));
  });

  it('goes on after a kill that comes between SET_STATUS 0 and GET_VRING_BASE', async () => {
    const disk = await open({ inflight: true, timeoutMs: 60_000 });
    for (let i = 0; i < 5; i += 1) await disk.write(i * 4096, Buffer.alloc(4096, i + 1));
    await disk.setWriteback(false);
    await disk.frontend.setStatus(0);
    await served.backEnd.kill();
    await served.restart();
    await disk.reconnect(served.sockets[0]!, { patienceMs: 10_000 });
    for (let i = 5; i < 10; i += 1) await disk.write(i * 4096, Buffer.alloc(4096, i + 1));
    for (let i = 0; i < 10; i += 1)
      expect(Buffer.from(await disk.read(i * 4096, 4096))).toEqual(Buffer.alloc(4096, i + 1));
    expect((await disk.readConfig()).writeback).toBe(0);
    await disk.setWriteback(true);
  });

  it('goes on in a new process with what the killed one had in flight, once each', async () => {
    const disk = await open({ inflight: true, timeoutMs: 60_000 });
    const random = new Random(77);
    const model = served.content();
    const lastOf = new Map<number, Promise<void>>();
    let failed = 0;
    const write = (): void => {
      const slot = random.below(512);
      if (lastOf.has(slot)) return;
      const bytes = random.bytes(8192);
      const done = disk.write(slot * 8192, bytes, { queue: slot % 2 }).then(
        () => {
          model.set(bytes, slot * 8192);
          lastOf.delete(slot);
        },
        () => {
          failed += 1;
        },
      );
      lastOf.set(slot, done);
    };
    for (let life = 0; life < 3; life += 1) {
      for (let i = 0; i < 24; i += 1) write();
      await Promise.race(lastOf.values());
      await served.backEnd.kill();
      await served.restart();
      await disk.reconnect(served.sockets[0]!, { patienceMs: 10_000 });
      await Promise.all(lastOf.values());
    }
    expect(failed).toBe(0);
    for (const { ring } of disk.queues) expect(ring.inFlightCount).toBe(0);
    expect(Buffer.from(await disk.read(0, 4 * MiB)).equals(model.subarray(0, 4 * MiB))).toBe(true);
    expect(await disk.request({ type: BLK_TYPE.FLUSH })).toMatchObject({ status: BLK_STATUS.OK });
  });
});
