import { statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { BLK_FEATURE, BLK_STATUS, BLK_TYPE, RING_FEATURE } from '@cairn/virtio/testing';
import {
  FakeBlkDisk,
  zeroRanges,
  type BlkRequest,
  type FakeDiskOptions,
  type Framing,
} from '@cairn/vhost-user/testing';
import { afterEach, describe, expect, it } from 'vitest';
import { scratchDirectory } from '../support/back-end.js';
import { startExport, statusOf } from '../support/export-process.js';
import { Random } from '../support/random.js';
import { serveDisks, type ServedDisks } from '../support/served-disks.js';
import { mountSmallTmpfs } from '../support/small-tmpfs.js';

const KiB = 1024;
const MiB = 2 ** 20;
const SIZE = 8 * MiB;

const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

interface Serving {
  cache?: 'direct' | 'writeback';
  readOnly?: boolean;
  below?: string;
  args?: readonly string[];
  limit?: string;
}

/** A back-end with a control socket, gone after the test. */
const serve = async ({ args = [], limit, ...more }: Serving = {}) => {
  const scratch = scratchDirectory();
  cleanups.push(scratch.remove);
  const control = join(scratch.path, 'control');
  const start = (options: Parameters<typeof startExport>[0]) =>
    startExport({
      ...options,
      args: [...args, '--control', control],
      ...(limit === undefined ? {} : { limit }),
    });
  const served = await serveDisks(start, {
    sizeBytes: SIZE,
    numQueues: 2,
    serial: 'twenty-bytes-serial!',
    ...more,
  });
  cleanups.push(() => served.close());
  return { served, control };
};

const open = async (served: ServedDisks, options: FakeDiskOptions = {}) => {
  const disk = await FakeBlkDisk.open(served.sockets[0]!, { timeoutMs: 60_000, ...options });
  cleanups.push(() => disk.close());
  return disk;
};

const statusesOf = (disk: FakeBlkDisk, requests: readonly BlkRequest[]) =>
  Promise.all(requests.map(async (request) => (await disk.request(request)).status));

/** Compares long buffers, of which `toEqual` is slow to look at every element. */
const sameBytes = (one: Uint8Array, other: Uint8Array) => Buffer.compare(one, other) === 0;

/** Blocks of 512 bytes that a file takes on the host. */
const blocksOf = (file: string): number => statSync(file).blocks;

const layouts = [
  ['split', false],
  ['packed', true],
] as const;

describe.each(layouts)('cairn export with %s rings', (_, packed) => {
  describe.each([
    ['the disk', undefined],
    ['tmpfs', '/dev/shm'],
  ])('and its file on %s', (_where, below) => {
    const pattern = new Random(5).bytes(MiB);
    const filled = async () => {
      const { served, control } = await serve(below === undefined ? {} : { below });
      const disk = await open(served, { packed });
      await disk.write(0, pattern);
      await disk.flush();
      return { served, control, disk, before: blocksOf(served.files[0]!) };
    };
    const holed = (ranges: readonly { offsetBytes: number; lengthBytes: number }[]) => {
      const expected = Buffer.from(pattern);
      for (const { offsetBytes, lengthBytes } of ranges)
        expected.fill(0, offsetBytes, offsetBytes + lengthBytes);
      return expected;
    };

    it('gives the host its space back on DISCARD (virtio 1.2 §5.2.6)', async () => {
      const { served, disk, before } = await filled();
      const ranges = [{ offsetBytes: 256 * KiB, lengthBytes: 512 * KiB }];
      await disk.discard(ranges);
      expect(before - blocksOf(served.files[0]!)).toBe((512 * KiB) / 512);
      expect(sameBytes(await disk.read(0, MiB), holed(ranges))).toBe(true);
      expect(statSync(served.files[0]!).size).toBe(SIZE);
    });

    it('gives it back on WRITE_ZEROES with UNMAP, and zeroes without (virtio 1.2 §5.2.6)', async () => {
      const { served, disk, before } = await filled();
      const unmapped = [{ offsetBytes: 0, lengthBytes: 256 * KiB, unmap: true }];
      await disk.writeZeroes(unmapped);
      expect(before - blocksOf(served.files[0]!)).toBe((256 * KiB) / 512);
      const kept = [{ offsetBytes: 512 * KiB, lengthBytes: 128 * KiB }];
      await disk.writeZeroes(kept);
      expect(sameBytes(await disk.read(0, MiB), holed([...unmapped, ...kept]))).toBe(true);
    });

    it('zeroes to the sector, several ranges in one request (virtio 1.2 §5.2.6)', async () => {
      const { control, disk } = await filled();
      const ranges = [
        { offsetBytes: 512, lengthBytes: 512, unmap: true },
        { offsetBytes: 7 * 512, lengthBytes: 3 * 512 },
        { offsetBytes: 64 * KiB - 512, lengthBytes: 8 * KiB + 1024, unmap: true },
      ];
      await disk.writeZeroes(ranges);
      expect(sameBytes(await disk.read(0, MiB), holed(ranges))).toBe(true);
      const bytes = ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
      expect((await statusOf(control)).metrics.bytes.discard).toBe(bytes);
    });
  });

  it('refuses what DISCARD and WRITE_ZEROES may not ask, and touches nothing (virtio 1.2 §5.2.6.2)', async () => {
    const { served } = await serve();
    const disk = await open(served, { packed });
    await disk.write(0, Buffer.alloc(64 * KiB, 3));
    const { maxDiscardSegments } = disk.config;
    const good = { offsetBytes: 0, lengthBytes: 4096 };
    const beyond = { offsetBytes: SIZE - 4096, lengthBytes: 8192 };
    const flagged = (flags: number) => {
      const payload = zeroRanges([good]);
      payload.writeUInt32LE(flags, 12);
      return payload;
    };
    const { DISCARD, WRITE_ZEROES, SECURE_ERASE } = BLK_TYPE;
    const { IOERR, UNSUPP } = BLK_STATUS;
    const cases: [number, Buffer, number][] = [
      [DISCARD, zeroRanges([good, beyond]), IOERR],
      [WRITE_ZEROES, zeroRanges([good, beyond]), IOERR],
      [DISCARD, Buffer.alloc(0), IOERR],
      [DISCARD, zeroRanges([good]).subarray(0, 15), IOERR],
      [DISCARD, zeroRanges(Array.from({ length: maxDiscardSegments + 1 }, () => good)), IOERR],
      [DISCARD, flagged(1), UNSUPP],
      [WRITE_ZEROES, flagged(2), UNSUPP],
      [SECURE_ERASE, zeroRanges([good]), UNSUPP],
    ];
    const statuses = await statusesOf(
      disk,
      cases.map(([type, out]) => ({ type, out })),
    );
    expect(statuses).toEqual(cases.map(([, , status]) => status));
    expect(sameBytes(await disk.read(0, 64 * KiB), Buffer.alloc(64 * KiB, 3))).toBe(true);
  });

  it('answers GET_ID into a buffer of any size (virtio 1.2 §5.2.6)', async () => {
    const { served } = await serve();
    const disk = await open(served, { packed });
    const idOf = async (inBytes: number, framing?: Framing) => {
      const reply = await disk.request({ type: BLK_TYPE.GET_ID, inBytes, ...(framing && { framing }) });
      return [reply.status, Buffer.from(reply.data.subarray(0, 20)).toString('latin1')];
    };
    expect(await idOf(20)).toEqual([BLK_STATUS.OK, 'twenty-bytes-serial!']);
    expect(await idOf(20, { writable: [3, 9] })).toEqual([BLK_STATUS.OK, 'twenty-bytes-serial!']);
    expect(await idOf(6)).toEqual([BLK_STATUS.OK, 'twenty']);
    expect(await idOf(64)).toEqual([BLK_STATUS.OK, 'twenty-bytes-serial!']);
  });

  it('reads and flushes, and changes nothing, when it is read-only (virtio 1.2 §5.2.5)', async () => {
    const { served, control } = await serve({ readOnly: true });
    const disk = await open(served, { packed });
    expect(
      [BLK_FEATURE.RO, BLK_FEATURE.DISCARD, BLK_FEATURE.WRITE_ZEROES].map((bit) => disk.has(bit)),
    ).toEqual([true, false, false]);
    const range = zeroRanges([{ offsetBytes: 0, lengthBytes: 4096 }]);
    const { OUT, DISCARD, WRITE_ZEROES } = BLK_TYPE;
    const changes = [
      { type: OUT, out: Buffer.alloc(512, 1) },
      { type: DISCARD, out: range },
      { type: WRITE_ZEROES, out: range },
    ];
    expect(await statusesOf(disk, changes)).toEqual(changes.map(() => BLK_STATUS.IOERR));
    await disk.read(0, 4096);
    await disk.flush();
    expect(await disk.getId()).toBe('twenty-bytes-serial!');
    expect(served.content().equals(Buffer.alloc(SIZE))).toBe(true);
    expect((await statusOf(control)).errorsByName).toEqual({ 'read-only': 3 });
  });

  describe.each(['writeback', 'direct'] as const)('and --cache %s', (cache) => {
    const data = new Random(6).bytes(8192);
    const framings: [string, Framing][] = [
      ['a header in 16 pieces', { readable: Array.from({ length: 16 }, () => 1) }],
      ['header and data in one descriptor', { readable: [16 + data.length] }],
      ['a header that ends amidst the data', { readable: [9, 100, 4096] }],
      ['data and status in one descriptor', { writable: [data.length + 1] }],
      ['data in sectors', { readable: [16, ...Array.from({ length: 15 }, () => 512)] }],
      ['data in odd pieces', { readable: [16, 1, 511, 513, 1023], writable: [3, 4093, 7] }],
      ['everything in one indirect table', { indirectAfter: 0 }],
      ['odd pieces in an indirect table', { readable: [5, 600, 1], writable: [777, 1], indirectAfter: 0 }],
    ];
    const placed = framings.flatMap(([name, framing]) =>
      [1, 3, 512, 4096].map((alignBytes) => ({ name, alignBytes, framing: { ...framing, alignBytes } })),
    );

    it('takes any framing at any alignment (virtio 1.2 §2.7.4)', async () => {
      const { served } = await serve({ cache });
      const disk = await open(served, { packed });
      for (const [i, { name, alignBytes, framing }] of placed.entries()) {
        const at = 512 * (1 + 17 * i);
        await disk.write(at, data, { framing });
        const got = Buffer.from(await disk.read(at, data.length, { framing }));
        expect(got.equals(data), `${name}, aligned to ${alignBytes}`).toBe(true);
      }
      await disk.flush();
      const content = served.content();
      const kept = placed.map((_cell, i) => content.subarray(512 * (1 + 17 * i)).subarray(0, data.length));
      expect(kept.every((bytes) => bytes.equals(data))).toBe(true);
    });

    it('fails what a file that was cut short cannot give, and goes on when it has grown again', async () => {
      const { served, control } = await serve({ cache });
      const disk = await open(served, { packed });
      const [file] = served.files;
      await disk.write(0, Buffer.alloc(64 * KiB, 8));
      truncateSync(file!, 32 * KiB);
      const across = { type: BLK_TYPE.IN, sector: (28 * KiB) / 512, inBytes: 8 * KiB };
      const beyond = { type: BLK_TYPE.IN, sector: MiB / 512, inBytes: 4096 };
      const odd = { ...across, framing: { alignBytes: 1 } };
      expect(await statusesOf(disk, [across, beyond, odd])).toEqual([1, 1, 1].map(() => BLK_STATUS.IOERR));
      expect((await statusOf(control)).errorsByName).toEqual({ 'short-io': 3 });
      expect(Buffer.from(await disk.read(0, 4096))).toEqual(Buffer.alloc(4096, 8));
      truncateSync(file!, SIZE);
      expect(await statusesOf(disk, [across, beyond, odd])).toEqual([0, 0, 0].map(() => BLK_STATUS.OK));
    });

    it('writes up to where the host allows, and reports the rest as an error', async () => {
      // 8192 blocks of 512 bytes: a write across that place is cut short, and what is left of it fails with EFBIG.
      const { served, control } = await serve({ cache, limit: 'ulimit -f 8192' });
      const disk = await open(served, { packed });
      await disk.write(4 * MiB - 8192, Buffer.alloc(8192, 1));
      const across = { type: BLK_TYPE.OUT, sector: (4 * MiB - 4096) / 512, out: Buffer.alloc(8192, 2) };
      expect((await disk.request(across)).status).toBe(BLK_STATUS.IOERR);
      expect((await statusOf(control)).errorsByName).toEqual({ EFBIG: 1 });
      expect(Buffer.from(await disk.read(4 * MiB - 4096, 8192))).toEqual(
        Buffer.concat([Buffer.alloc(4096, 2), Buffer.alloc(4096)]),
      );
      await disk.flush();
    });
  });

  it('fails writes of a full file system with IOERR, counts ENOSPC, and writes again when there is room', async (test) => {
    const small = mountSmallTmpfs(2 * MiB);
    if (typeof small === 'string') return test.skip(small);
    cleanups.push(small.unmount);
    const { served, control } = await serve({ below: small.path });
    const disk = await open(served, { packed });
    await disk.write(0, Buffer.alloc(MiB, 1));
    const more = { type: BLK_TYPE.OUT, sector: (2 * MiB) / 512, out: Buffer.alloc(2 * MiB, 2) };
    expect((await disk.request(more)).status).toBe(BLK_STATUS.IOERR);
    expect((await statusOf(control)).errorsByName).toEqual({ ENOSPC: 1 });
    expect(sameBytes(await disk.read(0, MiB), Buffer.alloc(MiB, 1))).toBe(true);
    await disk.flush();
    await disk.discard([{ offsetBytes: 0, lengthBytes: 4 * MiB }]);
    await disk.write(6 * MiB, Buffer.alloc(MiB, 3));
    expect(sameBytes(await disk.read(6 * MiB, MiB), Buffer.alloc(MiB, 3))).toBe(true);
    return undefined;
  });

  it('answers every request at 10 requests a second, and none too late', async () => {
    const { served, control } = await serve({ args: ['--iops', '10'] });
    const disk = await open(served, { packed, numQueues: 2 });
    const began = performance.now();
    const requests = Array.from({ length: 40 }, (_, i) =>
      disk.write(i * 4096, Buffer.alloc(4096, i), { queue: i % 2 }),
    );
    await Promise.all(requests);
    // The bucket holds a second's worth at most.
    expect(performance.now() - began).toBeGreaterThan(2_500);
    expect((await statusOf(control)).metrics.requests.write).toBe(40);
    expect(served.content().subarray(39 * 4096, 39 * 4096 + 4096)).toEqual(Buffer.alloc(4096, 39));
  });

  it('serves bytes that nobody keeps with --null', async () => {
    const scratch = scratchDirectory();
    cleanups.push(scratch.remove);
    const socket = join(scratch.path, 'null.sock');
    const backEnd = await startExport({ disks: [], args: ['--null', '1G', '--socket', socket] });
    cleanups.push(() => backEnd.kill());
    const disk = await FakeBlkDisk.open(socket, { packed });
    cleanups.push(() => disk.close());
    expect(disk.capacityBytes).toBe(1024 * MiB);
    expect(disk.has(RING_FEATURE.EVENT_IDX)).toBe(true);
    await Promise.all(Array.from({ length: 64 }, (_, i) => disk.write(i * MiB, Buffer.alloc(4096, i))));
    expect(await disk.read(1023 * MiB, 65_536)).toHaveLength(65_536);
    await disk.flush();
    await disk.discard([{ offsetBytes: 0, lengthBytes: MiB }]);
    await disk.writeZeroes([{ offsetBytes: 0, lengthBytes: MiB, unmap: true }]);
    const beyond = { type: BLK_TYPE.IN, sector: (1024 * MiB) / 512, inBytes: 512 };
    expect((await disk.request(beyond)).status).toBe(BLK_STATUS.IOERR);
    expect(await disk.stop()).toEqual(disk.queues.map(({ ring }) => ring.drainedBase));
  });
});
