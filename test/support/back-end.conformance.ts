import { BLK_FEATURE, BLK_STATUS, BLK_TYPE, RING_FEATURE, bits } from '@cairn/virtio/testing';
import { FakeBlkDisk, FakeFrontend, type FakeDiskOptions } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  leakedBy,
  NOTHING_LEAKED,
  settledHeldBy,
  type BackEndOptions,
  type StartBackEnd,
} from './back-end.js';
import { exerciseAgainstModel } from './model-disk.js';
import { Random } from './random.js';
import { serveDisks, type ServedDisks } from './served-disks.js';

const MiB = 2 ** 20;
const SIZE = 8 * MiB;

/** What differs, lawfully, between back-ends. */
export interface Traits {
  /** Takes direct descriptors in front of an indirect one. */
  mixedIndirect: boolean;
  /** Keeps its bounds and its state against front-ends that are abrupt or early; QEMU 7.2 does not always. */
  robust: boolean;
}

/** What every vhost-user-blk back-end owes to a correct front-end, checked on the one that `start` makes. */
export const describeBackEnd = (
  name: string,
  start: StartBackEnd,
  traits: Traits,
  serveWith: (
    start: StartBackEnd,
    options: Omit<BackEndOptions, 'disks'> & { sizeBytes: number },
  ) => Promise<ServedDisks> = serveDisks,
): void => {
  const serve = (more: Omit<BackEndOptions, 'disks'> = {}) =>
    serveWith(start, { sizeBytes: SIZE, numQueues: 2, ...more });

  describe(`${name} as a vhost-user-blk back-end`, () => {
    let served: ServedDisks;
    beforeAll(async () => {
      served = await serve();
    });
    afterAll(() => served.close());

    // Closed after each test, or a failed one would keep the back-end from the next.
    const opened: FakeBlkDisk[] = [];
    afterEach(() => opened.splice(0).forEach((disk) => disk.close()));
    const open = async (options: FakeDiskOptions = {}) => {
      const disk = await FakeBlkDisk.open(served.sockets[0]!, { numQueues: 2, ...options });
      opened.push(disk);
      return disk;
    };

    it('offers what its drivers rely on', async () => {
      const disk = await open();
      const wanted = [RING_FEATURE.VERSION_1, RING_FEATURE.EVENT_IDX, RING_FEATURE.INDIRECT_DESC];
      for (const feature of [
        ...wanted,
        BLK_FEATURE.MQ,
        BLK_FEATURE.FLUSH,
        BLK_FEATURE.SEG_MAX,
        BLK_FEATURE.BLK_SIZE,
      ])
        expect(disk.has(feature), `feature ${feature}`).toBe(true);
      expect(disk.config).toMatchObject({ capacitySectors: SIZE / 512, numQueues: 2 });
      expect(disk.config.segMax).toBeGreaterThanOrEqual(1);
      await disk.detach();
    });

    const rings: [string, FakeDiskOptions][] = [
      ['event indices and indirect tables', {}],
      ['flags instead of event indices', { without: bits(RING_FEATURE.EVENT_IDX) }],
      ['no indirect tables', { without: bits(RING_FEATURE.INDIRECT_DESC) }],
      ['calls suppressed', { notify: 'poll' }],
      ['calls suppressed by flag', { notify: 'poll', without: bits(RING_FEATURE.EVENT_IDX) }],
      [
        'neither event indices nor indirect tables',
        { without: bits(RING_FEATURE.EVENT_IDX, RING_FEATURE.INDIRECT_DESC) },
      ],
      ['a queue of 4 entries', { numQueues: 1, queueSize: 4 }],
      ['256 entries', { queueSize: 256 }],
      ['rings above 4 GiB', { ringRegion: 1 }],
      ['indices about to wrap', { base: 65_500 }],
      ['no acknowledgements', { protocolWithout: bits(3) }],
      ['no protocol features', { without: bits(RING_FEATURE.PROTOCOL_FEATURES), numQueues: 1 }],
      [
        'four regions, two of them adjacent, one at an offset in its file',
        {
          memory: [
            { gpa: 0, sizeBytes: MiB },
            { gpa: MiB, sizeBytes: 2 * MiB },
            { gpa: 0x4000_0000, sizeBytes: MiB, mmapOffsetBytes: 3 * MiB },
            { gpa: 0x2_8000_0000, sizeBytes: 4 * MiB },
          ],
        },
      ],
    ];
    it.each(rings)('keeps every byte of random requests: %s', async (_, options) => {
      const disk = await open(options);
      const { queueSize = 128 } = options;
      const model = await exerciseAgainstModel(disk, new Random(1), {
        model: served.content(),
        requests: queueSize < 16 ? 100 : 250,
        depth: 16,
        indirect: disk.has(RING_FEATURE.INDIRECT_DESC),
        mixed: traits.mixedIndirect,
        maxPieces: Math.min(queueSize, (disk.config?.segMax ?? 126) + 2),
      });
      expect(served.content().equals(model)).toBe(true);
      expect(await disk.stop()).toEqual(disk.queues.map(({ driver }) => driver.nextAvail));
      disk.close();
    });

    it('reads and writes a buffer that crosses from one region into the adjacent one', async () => {
      const memory = [
        { gpa: 0, sizeBytes: MiB },
        { gpa: MiB, sizeBytes: MiB },
      ];
      const disk = await open({ memory, ringRegion: 0 });
      const { ram } = disk;
      // Everything up to the last 2 KiB of the first region is taken, so that no buffer fits before the border.
      const queue = disk.queues[0]!;
      const header = ram.allocate(16, 16, 0);
      const status = ram.allocate(1, 1, 0);
      const data = new Random(2).bytes(4096);
      ram.bytes(MiB - 2048, 2048).set(data.subarray(0, 2048));
      ram.bytes(MiB, 2048).set(data.subarray(2048));
      ram.setU32(header, BLK_TYPE.OUT);
      ram.setU64(header + 8, 16);
      const done = disk.raw(queue, [
        { gpa: header, lengthBytes: 16, writable: false },
        { gpa: MiB - 2048, lengthBytes: 4096, writable: false },
        { gpa: status, lengthBytes: 1, writable: true },
      ]);
      await done;
      expect(ram.bytes(status, 1)[0]).toBe(BLK_STATUS.OK);
      expect(
        served
          .content()
          .subarray(8192, 8192 + 4096)
          .equals(data),
      ).toBe(true);
      await disk.detach();
    });

    it('says in the used length how much it wrote', async () => {
      const disk = await open();
      expect((await disk.request({ type: BLK_TYPE.IN, inBytes: 4096 })).usedBytes).toBe(4097);
      expect((await disk.request({ type: BLK_TYPE.OUT, out: Buffer.alloc(512) })).usedBytes).toBe(1);
      expect((await disk.request({ type: BLK_TYPE.FLUSH })).usedBytes).toBe(1);
      await disk.detach();
    });

    it('answers many chains published at once', async () => {
      const disk = await open();
      const queue = disk.queues[1]!;
      queue.corked = true;
      const reads = Array.from({ length: 40 }, (_, i) => disk.read(i * 512, 512, { queue: 1 }));
      disk.uncork(queue);
      expect(await Promise.all(reads)).toHaveLength(40);
      await disk.detach();
    });

    it('sends hardly a call to a driver that asks for none', async () => {
      const disk = await open({ notify: 'poll', numQueues: 1 });
      for (let i = 0; i < 50; i++) await disk.read(0, 512);
      expect(disk.queues[0]!.drainCalls()).toBeLessThan(5);
      await disk.detach();
    });

    it.each([
      ['a read beyond the end', { type: BLK_TYPE.IN, sector: SIZE / 512, inBytes: 512 }],
      ['a read across the end', { type: BLK_TYPE.IN, sector: SIZE / 512 - 1, inBytes: 1024 }],
      ['a write across the end', { type: BLK_TYPE.OUT, sector: SIZE / 512 - 1, out: Buffer.alloc(1024) }],
      ['a sector whose offset overflows', { type: BLK_TYPE.IN, sector: 1n << 55n, inBytes: 512 }],
      ['a read of the last sector number', { type: BLK_TYPE.IN, sector: (1n << 64n) - 1n, inBytes: 512 }],
      ['a read that is no multiple of 512', { type: BLK_TYPE.IN, inBytes: 513 }],
      ['a write that is no multiple of 512', { type: BLK_TYPE.OUT, out: Buffer.alloc(511) }],
    ])('fails with IOERR, and nothing else: %s', async (_, request) => {
      const disk = await open();
      const before = served.content();
      expect((await disk.request(request)).status).toBe(BLK_STATUS.IOERR);
      expect(served.content().equals(before)).toBe(true);
      await disk.read(0, 4096);
      await disk.detach();
    });

    it('answers UNSUPP to a request type it does not know', async () => {
      const disk = await open();
      for (const type of [2, 3, 5, 6, 7, 9, 10, 12, 15, 0x7fffffff, 0xffffffff])
        expect((await disk.request({ type, inBytes: 0 })).status, `type ${type}`).toBe(BLK_STATUS.UNSUPP);
      await disk.detach();
    });

    it('goes on where it stopped when the front-end stops and starts its rings', async () => {
      const disk = await open();
      for (let round = 0; round < 5; round++) {
        for (let i = 0; i < 7; i++) await disk.write(512 * i, Buffer.alloc(512, round), { queue: i & 1 });
        expect(await disk.stop()).toEqual(disk.queues.map(({ driver }) => driver.nextAvail));
        await disk.start();
      }
      expect(Buffer.from(await disk.read(0, 512))).toEqual(Buffer.alloc(512, 4));
      await disk.detach();
    });

    it.runIf(traits.robust)('serves chains that were published before the rings started', async () => {
      const disk = await open();
      await disk.stop();
      const reads = [disk.read(0, 512), disk.read(0, 512, { queue: 1 })];
      await disk.start();
      for (const queue of disk.queues) queue.kick();
      await Promise.all(reads);
      await disk.detach();
    });

    it.runIf(traits.robust)('refuses a configuration read that is out of bounds', async () => {
      const frontend = FakeFrontend.connect(served.sockets[0]!);
      await frontend.setFeatures(await frontend.getFeatures());
      await frontend.setProtocolFeatures((await frontend.getProtocolFeatures()) & bits(0, 3, 9));
      await expect(frontend.getConfig(0, 8)).resolves.toHaveLength(8);
      await expect(frontend.getConfig(0xffff_fff0, 8)).rejects.toThrow();
      frontend.close();
    });

    it.runIf(traits.robust)('is the same after a hundred front-ends came and went', async () => {
      const visit = async (abrupt: boolean) => {
        const disk = await open();
        await disk.write(0, Buffer.alloc(512, 1));
        if (abrupt) disk.close();
        else await disk.detach();
      };
      for (let i = 0; i < 3; i++) await visit(i % 2 === 0);
      const before = await settledHeldBy(served.backEnd.pid);
      for (let i = 0; i < 100; i++) await visit(i % 2 === 0);
      const leaked = () => leakedBy(served.backEnd.pid, before);
      await expect.poll(leaked, { timeout: 5_000 }).toEqual(NOTHING_LEAKED);
    });

    it('ends with 0 on SIGTERM', async () => {
      const other = await serve();
      const disk = await FakeBlkDisk.open(other.sockets[0]!);
      await disk.write(0, Buffer.alloc(4096, 9));
      expect(await other.backEnd.stop()).toBe(0);
      expect(other.content().subarray(0, 4096)).toEqual(Buffer.alloc(4096, 9));
      disk.close();
      await other.close();
    });
  });

  describe(`${name} with a read-only file`, () => {
    it('announces it, reads, and fails every write with IOERR', async () => {
      const served = await serve({ readOnly: true });
      const before = served.content();
      const disk = await FakeBlkDisk.open(served.sockets[0]!);
      expect(disk.has(BLK_FEATURE.RO)).toBe(true);
      await disk.read(0, 4096);
      expect((await disk.request({ type: BLK_TYPE.OUT, out: Buffer.alloc(512, 1) })).status).toBe(
        BLK_STATUS.IOERR,
      );
      expect(served.content().equals(before)).toBe(true);
      await disk.detach();
      await served.close();
    });
  });

  describe.each(['direct', 'writeback'] as const)(`${name} with --cache %s`, (cache) => {
    it('keeps every byte, aligned or not', async () => {
      const served = await serve({ cache });
      const disk = await FakeBlkDisk.open(served.sockets[0]!, { numQueues: 2 });
      const model = await exerciseAgainstModel(disk, new Random(3), {
        model: served.content(),
        requests: 300,
        depth: 16,
        indirect: true,
        mixed: traits.mixedIndirect,
        maxPieces: 40,
      });
      expect(served.content().equals(model)).toBe(true);
      await disk.detach();
      await served.close();
    });
  });
};
