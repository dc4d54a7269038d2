import type { BlkRequest, FakeBlkDisk } from '@cairn/vhost-user/testing';
import { BLK_FEATURE, BLK_STATUS, BLK_TYPE } from '@cairn/virtio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { DISK_BYTES, HostileArena } from './hostile-arena.js';

const { OK, IOERR, UNSUPP } = BLK_STATUS;
const { IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES } = BLK_TYPE;
const SECTORS = DISK_BYTES / 512;

const out = (lengthBytes: number) => Buffer.alloc(lengthBytes, 0x5a);

/** struct virtio_blk_discard_write_zeroes, so many times (virtio 1.2 §5.2.6). */
const segments = (count: number, sector: number | bigint, sectors: number, flags: number): Buffer => {
  const one = Buffer.alloc(16);
  one.writeBigUInt64LE(BigInt.asUintN(64, BigInt(sector)), 0);
  one.writeUInt32LE(sectors >>> 0, 8);
  one.writeUInt32LE(flags >>> 0, 12);
  return Buffer.concat(Array.from({ length: count }, () => one));
};

const fails: [string, BlkRequest, ...number[]][] = [
  ['a read of the first sector past the end', { type: IN, sector: SECTORS, inBytes: 512 }, IOERR],
  ['a read across the end', { type: IN, sector: SECTORS - 1, inBytes: 1024 }, IOERR],
  ['a write across the end', { type: OUT, sector: SECTORS - 1, out: out(1024) }, IOERR],
  ['a write of the first sector past the end', { type: OUT, sector: SECTORS, out: out(512) }, IOERR],
  ['sector 2^32', { type: OUT, sector: 2 ** 32, out: out(512) }, IOERR],
  ['a sector whose offset is 2^63', { type: OUT, sector: 1n << 54n, out: out(512) }, IOERR],
  ['a sector whose offset wraps to 0', { type: OUT, sector: 1n << 55n, out: out(512) }, IOERR],
  ['a sector at the edge of exact numbers', { type: OUT, sector: (1n << 53n) + 1n, out: out(512) }, IOERR],
  ['sector 2^64 - 1, which with the length wraps to 0', { type: OUT, sector: -1n, out: out(1024) }, IOERR],
  ['sector 2^63', { type: IN, sector: 1n << 63n, inBytes: 512 }, IOERR],
  ['a read of 511 bytes', { type: IN, inBytes: 511 }, IOERR],
  ['a read of 1 byte', { type: IN, inBytes: 1 }, IOERR],
  ['a write of 513 bytes', { type: OUT, out: out(513) }, IOERR],
  ['a write of 1 byte', { type: OUT, out: out(1) }, IOERR],
  [
    'a write of 4095 bytes in odd pieces',
    { type: OUT, out: out(4095), framing: { readable: [17, 5, 1000] } },
    IOERR,
  ],
  ['a read of no bytes', { type: IN }, OK, IOERR],
  ['a write of no bytes', { type: OUT }, OK, IOERR],
  ['a read whose buffer is device-readable', { type: IN, out: out(512) }, OK, IOERR],
  ['a write whose buffer is device-writable', { type: OUT, inBytes: 512 }, OK, IOERR],
  [
    'a write whose device-writable part is a buffer, too',
    { type: OUT, out: out(512), inBytes: 512, sector: 2 },
    OK,
    IOERR,
  ],
  ['a flush with a sector', { type: FLUSH, sector: 77 }, OK, IOERR],
  ['a flush with data', { type: FLUSH, out: out(512), inBytes: 512 }, OK, IOERR],
  ...[2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 24, 26, 0x100, 0x8000_0000, 0x8000_0001, 0xffff_ffff].map(
    (type): [string, BlkRequest, number] => [`type ${type}`, { type, inBytes: 512 }, UNSUPP],
  ),
  ['a discard of no segment', { type: DISCARD }, IOERR, UNSUPP],
  [
    'a discard of a part of a segment',
    { type: DISCARD, out: segments(1, 0, 8, 0).subarray(1) },
    IOERR,
    UNSUPP,
  ],
  ['a discard of 1000 segments', { type: DISCARD, out: segments(1000, 0, 8, 0) }, IOERR, UNSUPP],
  ['a discard with the unmap flag', { type: DISCARD, out: segments(1, 0, 8, 1) }, UNSUPP],
  ['a discard with unknown flags', { type: DISCARD, out: segments(1, 0, 8, 0xffff_fffe) }, UNSUPP],
  ['a discard past the end', { type: DISCARD, out: segments(1, SECTORS, 8, 0) }, IOERR, UNSUPP],
  ['a discard that wraps', { type: DISCARD, out: segments(1, -1n, 0xffff_ffff, 0) }, IOERR, UNSUPP],
  ['writing zeroes with unknown flags', { type: WRITE_ZEROES, out: segments(1, 0, 8, 0x8000_0002) }, UNSUPP],
  ['writing zeroes past the end', { type: WRITE_ZEROES, out: segments(1, SECTORS - 1, 8, 0) }, IOERR, UNSUPP],
  ['writing zeroes in 1000 segments', { type: WRITE_ZEROES, out: segments(1000, 0, 8, 0) }, IOERR, UNSUPP],
];

describe('a hostile request ends with a status byte', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  it.each(fails)('%s', async (_, request, ...statuses) => {
    const disk = await arena.disk();
    const before = arena.served.content();
    const { status, usedBytes } = await disk.request(request);
    expect(statuses).toContain(status);
    // virtio 1.2 §2.7.8.2: a refused read has written nothing but its status.
    if (status !== OK) expect(usedBytes).toBe(1);
    const after = arena.served.content();
    expect(after.length).toBe(DISK_BYTES);
    if (status !== OK) expect(after.equals(before)).toBe(true);
    // The same ring goes on.
    await disk.read(0, 4096);
  });

  it.each([0, 1, 2, 19, 20, 21, 512])(
    'the serial in a buffer of %i bytes stays in the buffer',
    async (inBytes) => {
      const disk = await arena.disk();
      const { status, data } = await disk.request({ type: GET_ID, inBytes });
      expect([OK, IOERR]).toContain(status);
      // What the device had no serial for is untouched or zero.
      for (const byte of data.subarray(20)) expect([0xee, 0]).toContain(byte);
      await disk.read(0, 4096);
    },
  );

  it('a serial buffer in single bytes', async () => {
    const disk = await arena.disk();
    const framing = {
      readable: Array.from({ length: 15 }, () => 1),
      writable: Array.from({ length: 20 }, () => 1),
    };
    const { status } = await disk.request({ type: GET_ID, inBytes: 20, framing });
    expect(status).toBe(OK);
  });

  it('a guest with as many great requests in flight as fit does not shut the innocent out', async () => {
    const disk = await arena.disk({ queueSize: 1024, numQueues: 2, timeoutMs: 60_000 });
    const { ram } = disk;
    const header = ram.allocate(16, 16);
    const status = ram.allocate(1, 1);
    const data = ram.allocate(4 * 2 ** 20, 4096);
    ram.setU32(header, BLK_TYPE.IN);
    const pieces = [
      { gpa: header, lengthBytes: 16, writable: false },
      ...Array.from({ length: 2 }, () => ({ gpa: data, lengthBytes: 4 * 2 ** 20, writable: true })),
      { gpa: status, lengthBytes: 1, writable: true },
    ];
    const all: Promise<number>[] = [];
    for (const queue of disk.queues) {
      queue.corked = true;
      for (let i = 0; i < 200; i++) all.push(disk.raw(queue, pieces));
    }
    for (const queue of disk.queues) disk.uncork(queue);
    const start = performance.now();
    await arena.checkInnocent();
    expect(performance.now() - start).toBeLessThan(5_000);
    await Promise.all(all);
  });
});

describe('a read-only disk', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start({ readOnly: true });
  });
  afterAll(() => arena.close());

  const untouched = async (disk: FakeBlkDisk, request: BlkRequest) => {
    expect([IOERR, UNSUPP]).toContain((await disk.request(request)).status);
    expect(arena.served.content().equals(Buffer.alloc(DISK_BYTES))).toBe(true);
  };

  it.each([
    ['whether or not the driver took the feature', 0n],
    ['although the driver left RO out', 1n << BigInt(BLK_FEATURE.RO)],
  ])('is never written, %s', async (_, without) => {
    const disk = await arena.disk({ without });
    await untouched(disk, { type: OUT, out: out(4096) });
    await untouched(disk, { type: WRITE_ZEROES, out: segments(1, 0, 8, 0) });
    await untouched(disk, { type: DISCARD, out: segments(1, 0, 8, 0) });
    await disk.read(0, 4096);
    disk.close();
  });
});
