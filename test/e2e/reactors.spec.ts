import { execFile } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Worker } from 'node:worker_threads';
import { emptyTotal, type MetricsTotal, type Reactors } from '@cairn/block-export';
import { native } from '@cairn/native';
import { BLK_STATUS, BLK_TYPE } from '@cairn/virtio/testing';
import { FakeBlkDisk, type FakeDiskOptions } from '@cairn/vhost-user/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { scratchDirectory } from '../support/back-end.js';
import { BLOCK_EXPORT, builtReactors } from '../support/built-reactors.js';
import { mountFailingDisk } from '../support/failing-disk.js';
import { exerciseAgainstModel } from '../support/model-disk.js';
import { Random } from '../support/random.js';

const MiB = 2 ** 20;
const SIZE = 4 * MiB;

let scratch: { path: string; remove: () => void };
let reactors: Reactors;
let started = false;
let disks: FakeBlkDisk[];

beforeEach(() => {
  scratch = scratchDirectory();
  disks = [];
});
afterEach(async () => {
  for (const disk of disks) disk.close();
  if (started) await reactors.stop().catch(() => undefined);
  started = false;
  scratch.remove();
});

const start = async (options: Parameters<typeof Reactors.start>[0]) => {
  reactors = await (await builtReactors()).start(options);
  started = true;
};
const socketOf = (id: string) => join(scratch.path, `${id}.sock`);
const fileOf = (id: string) => join(scratch.path, `${id}.img`);
const serve = (id: string, { numQueues = 4, filePath = fileOf(id) } = {}) => {
  const fd = openSync(filePath, 'a', 0o600);
  ftruncateSync(fd, SIZE);
  closeSync(fd);
  return reactors.addExport({
    id,
    filePath,
    socketPath: socketOf(id),
    readOnly: false,
    numQueues,
    cache: 'writeback',
    serial: id,
  });
};
const open = async (id: string, options: FakeDiskOptions = {}) => {
  const disk = await FakeBlkDisk.open(socketOf(id), { timeoutMs: 60_000, ...options });
  disks.push(disk);
  return disk;
};
const exercise = (disk: FakeBlkDisk, id: string, seed: number) =>
  exerciseAgainstModel(disk, new Random(seed), {
    model: readFileSync(fileOf(id)),
    requests: 150,
    depth: 16,
    indirect: true,
    mixed: true,
    maxPieces: 20,
  });
interface CountedPerThread {
  arena: { metricsOf(reactor: number): { addTo(total: MetricsTotal): void } };
}

/** Requests of an export on each thread, which nobody but a test has to know. */
const requestsByReactor = (id: string): number[] => {
  const placed = (Reflect.get(reactors, 'exports') as Map<string, CountedPerThread>).get(id)!;
  const handles = Reflect.get(reactors, 'handles') as unknown[];
  return handles.map((_, reactor) => {
    const total = emptyTotal();
    placed.arena.metricsOf(reactor).addTo(total);
    return Object.values(total.requests).reduce((sum, count) => sum + count, 0);
  });
};
const readOnEachQueue = (disk: FakeBlkDisk) =>
  Promise.all(disk.queues.map(({ index }) => disk.read(0, 512, { queue: index })));

describe.each([1, 2, 3])('%i reactor threads', (count) => {
  beforeEach(() => start({ reactors: count }));

  it('share the queues of one volume, and keep every byte', async () => {
    await serve('one', { numQueues: 6 });
    const disk = await open('one', { numQueues: 6 });
    await readOnEachQueue(disk);
    expect(requestsByReactor('one')).toEqual(Array.from({ length: count }, () => 6 / count));
    const model = await exercise(disk, 'one', 1);
    expect(readFileSync(fileOf('one')).equals(model)).toBe(true);
    expect(await disk.stop()).toEqual(disk.queues.map(({ ring }) => ring.drainedBase));
  });

  it('are given equally many volumes, and again when some have gone', async () => {
    const ids = Array.from({ length: 2 * count }, (_, i) => `volume-${i}`);
    for (const id of ids) await serve(id, { numQueues: 1 });
    const served = new Map<string, FakeBlkDisk>();
    const ringsOf = async () => {
      const rings = Array.from({ length: count }, () => 0);
      for (const id of ids) {
        const before = requestsByReactor(id);
        await served.get(id)!.read(0, 512);
        requestsByReactor(id).forEach((now, reactor) => (rings[reactor]! += now - before[reactor]!));
      }
      return rings;
    };
    for (const id of ids) served.set(id, await open(id));
    expect(await ringsOf()).toEqual(Array.from({ length: count }, () => 2));
    // The first half goes, gives its places up, and comes back.
    for (const id of ids.slice(0, count)) {
      await served.get(id)!.detach();
      await reactors.removeExport(id);
    }
    for (const id of ids.slice(0, count)) {
      await serve(id, { numQueues: 1 });
      served.set(id, await open(id));
    }
    expect(await ringsOf()).toEqual(Array.from({ length: count }, () => 2));
  });

  it('stop and start rings under way', async () => {
    await serve('one');
    const disk = await open('one', { numQueues: 4 });
    for (let round = 0; round < 6; round += 1) {
      await exercise(disk, 'one', 20 + round);
      expect(await disk.stop()).toEqual(disk.queues.map(({ ring }) => ring.drainedBase));
      await disk.start();
    }
    await readOnEachQueue(disk);
  });

  it('let a volume go while its guest writes, and serve the others on', async () => {
    await serve('gone');
    await serve('stays');
    const [gone, stays] = [await open('gone', { numQueues: 4 }), await open('stays', { numQueues: 4 })];
    let acknowledged = 0;
    const writers = gone.queues.map(async ({ index }) => {
      for (let i = 0; ; i += 1) {
        await gone.write(((i * 4 + index) % 512) * 4096, Buffer.alloc(4096, 1 + index), { queue: index });
        acknowledged += 1;
      }
    });
    for (const writer of writers) writer.catch(() => undefined);
    const load = exercise(stays, 'stays', 3);
    await expect.poll(() => acknowledged, { timeout: 20_000 }).toBeGreaterThan(40);
    await reactors.removeExport('gone');
    await expect(Promise.all(writers)).rejects.toThrow('closed the connection');
    expect(await reactors.status('gone')).toBeUndefined();
    await load;
    // Its name is free again.
    await serve('gone');
    const again = await open('gone', { numQueues: 4 });
    expect((await readOnEachQueue(again)).length).toBe(4);
  });

  it('announce a greater size to the guest, and believe it on every thread', async () => {
    await serve('one');
    const disk = await open('one', { numQueues: 4 });
    const beyond = { type: BLK_TYPE.IN, sector: SIZE / 512, inBytes: 512 };
    const statuses = () =>
      Promise.all(
        disk.queues.map(async ({ index }) => (await disk.request({ ...beyond, queue: index })).status),
      );
    expect(await statuses()).toEqual(disk.queues.map(() => BLK_STATUS.IOERR));
    truncateSync(fileOf('one'), 2 * SIZE);
    await reactors.resizeExport('one', 2 * SIZE);
    await disk.frontend.nextConfigChange();
    expect((await disk.readConfig()).capacitySectors).toBe((2 * SIZE) / 512);
    expect(await statuses()).toEqual(disk.queues.map(() => BLK_STATUS.OK));
  });

  it('write through on every thread when the driver turns the cache off', async () => {
    await serve('one');
    const disk = await open('one', { numQueues: 4 });
    await disk.setWriteback(false);
    await Promise.all(
      disk.queues.map(({ index }) =>
        disk.write(index * 4096, Buffer.alloc(4096, 1 + index), { queue: index }),
      ),
    );
    for (const { index } of disk.queues) expect(readFileSync(fileOf('one'))[index * 4096]).toBe(1 + index);
  });

  it('tell when one of them dies, and reject everything from then on', async () => {
    await serve('one');
    const [handle] = Reflect.get(reactors, 'handles') as { worker: Worker }[];
    const [wakeFd] = Reflect.get(reactors, 'wakeFds') as number[];
    const ended = handle!.worker.terminate();
    native.signal(wakeFd!); // it sleeps in the kernel, where it cannot be ended
    await ended;
    expect((await reactors.failed).message).toMatch(/a reactor thread/);
    await expect(reactors.statuses()).rejects.toThrow(/a reactor thread/);
    await expect(serve('two')).rejects.toThrow(/a reactor thread/);
  });
});

describe('a disk that fails when it is made durable', () => {
  it('is told when the export goes, and when all of them do', async ({ skip }) => {
    const failing = mountFailingDisk();
    if (typeof failing === 'string') {
      skip(failing);
      return;
    }
    try {
      await start({ reactors: 2 });
      for (const id of ['one', 'other', 'sound'])
        await serve(id, id === 'sound' ? {} : { filePath: join(failing.path, id) });
      const random = new Random(5);
      for (const id of ['one', 'other', 'sound']) {
        const disk = await open(id);
        for (let at = 0; at < SIZE; at += MiB) await disk.write(at, random.bytes(MiB));
        await disk.detach();
      }
      const failure = expect.stringMatching(/^fdatasync failed with (EIO|ENOSPC);/);
      expect(await reactors.removeExport('one')).toEqual(failure);
      expect(await reactors.removeExport('sound')).toBeUndefined();
      await expect(reactors.stop()).rejects.toThrow(/^other: fdatasync failed with/);
    } finally {
      await reactors.stop().catch(() => undefined);
      failing.unmount();
    }
  });
});

describe('reactor threads of which one cannot start', () => {
  it('all end, and leave nothing behind', async () => {
    // Takes every descriptor of the process but `left`, then starts three threads, for each `left` up to where it works.
    const script = `
      import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs';
      const { Reactors } = await import(${JSON.stringify(BLOCK_EXPORT.href)});
      const threads = () => readdirSync('/proc/self/task').length;
      const linkOf = (fd) => {
        try { return readlinkSync('/proc/self/fd/' + fd); } catch { return ''; }
      };
      const rings = () => readdirSync('/proc/self/fd').filter((fd) => linkOf(fd).includes('[io_uring]')).length;
      const attempt = async (left) => {
        const taken = [];
        try {
          for (;;) taken.push(openSync('/dev/null'));
        } catch {}
        for (const fd of taken.splice(0, left)) closeSync(fd);
        const outcome = await Reactors.start({ reactors: 3 }).then(
          (reactors) => reactors.stop().then(() => 'started'),
          (error) => 'failed: ' + error.message,
        );
        for (const fd of taken) closeSync(fd);
        return outcome;
      };
      await attempt(600);
      const before = threads();
      const outcomes = [];
      for (let left = 0; left <= 600; left += 8) {
        const outcome = await attempt(left);
        for (let i = 0; i < 200 && threads() > before; i += 1) await new Promise((r) => setTimeout(r, 10));
        outcomes.push({ left, outcome, threads: threads() - before, rings: rings() });
        if (outcome === 'started') break;
      }
      console.log(JSON.stringify(outcomes));`;
    const file = join(scratch.path, 'starts.mjs');
    writeFileSync(file, script);
    const commandLine = ['-c', 'ulimit -n 300 && exec "$0" "$1"', process.execPath, file];
    const { stdout } = await promisify(execFile)('sh', commandLine, { timeout: 120_000 });
    type Outcome = { left: number; outcome: string; threads: number; rings: number };
    const outcomes = JSON.parse(stdout) as Outcome[];
    expect(outcomes.at(-1)!.outcome).toBe('started');
    expect(outcomes.filter(({ outcome }) => outcome.startsWith('failed')).length).toBeGreaterThan(2);
    expect(outcomes.filter(({ threads, rings }) => threads > 0 || rings > 0)).toEqual([]);
  });
});
