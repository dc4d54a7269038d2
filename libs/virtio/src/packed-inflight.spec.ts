import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PackedInflight, packedInflightBytes } from './packed-inflight.js';
import { PackedVirtqueue } from './packed-virtqueue.js';
import { DeviceMemory, FakePackedDriver, GuestRam, type Segment } from './testing/index.js';
import { VirtqueueError } from './virtqueue-error.js';

const faultOf = (action: () => unknown): string | undefined => {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof VirtqueueError) return error.fault;
    throw error;
  }
};

/** The bytes of a region as hex, 16 a row. */
const rowsOf = (buffer: ArrayBuffer): string[] => Buffer.from(buffer).toString('hex').match(/.{32}/g) ?? [];
const row = (...fields: string[]): string => fields.join('');
const ZEROES = '0'.repeat(32);

describe('the layout of a packed record (vhost-user, QueueRegionPacked)', () => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let driver: FakePackedDriver;
  let buffer: ArrayBuffer;
  let bytes: DataView;
  const ENTRIES = 4;

  beforeEach(() => {
    ram = new GuestRam([{ gpa: 0, sizeBytes: 0x1_0000 }]);
    device = new DeviceMemory(ram);
    driver = new FakePackedDriver(ram, { size: ENTRIES, eventIdx: false });
    buffer = new ArrayBuffer(64 + packedInflightBytes(ENTRIES));
    bytes = new DataView(buffer, 64);
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const open = (size = ENTRIES, entries = ENTRIES) =>
    new PackedVirtqueue({
      memory: device.memory,
      addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
      size,
      nextAvail: 0x8000_8000,
      eventIdx: false,
      indirect: true,
      inflight: new PackedInflight({ buffer, offsetBytes: 64, entries }),
    });
  const takeOne = (queue: PackedVirtqueue): number => {
    const id = queue.peekAvail();
    queue.take(id);
    return id;
  };
  const readable: Segment = { gpa: 0x8000, lengthBytes: 0x10, writable: false };
  const writable: Segment = { gpa: 0x9000, lengthBytes: 0x200, writable: true };
  /** A record with the chains of three slots in flight: [readable, writable] and an indirect one. */
  const busy = (): PackedVirtqueue => {
    const queue = open();
    driver.submit([readable, writable]);
    driver.submit([readable, writable], { indirectAfter: 0 });
    driver.publish();
    takeOne(queue);
    takeOne(queue);
    return queue;
  };

  it('takes what DPDK reserves for a queue', () => {
    // RTE_ALIGN_MUL_CEIL(32 * size + 8 + 6 * 2 + 9, 64).
    expect([1, 2, 3, 4, 256].map(packedInflightBytes)).toEqual([64, 128, 128, 192, 8256]);
  });

  it('is bytes as the structure says, little-endian', () => {
    const queue = busy();
    const table = Buffer.from(ram.bytes(driver.descGpa + 32, 8));
    const region = () => rowsOf(buffer).slice(4);
    expect(region()).toEqual([
      row('0000000000000000', '0100', '0400', '0300', '0300'),
      row('0000', '0000', '01', '01', '00000000000000000000'),
      row('0100', '0100', '0100', '0200', '0000000000000000'),
      row('0300', '0100', '10000000', '0080000000000000'),
      row('0000', '0200', '0000', '0000', '0000000000000000'),
      row('0300', '0200', '00020000', '0090000000000000'),
      row('0100', '0300', '0200', '0100', '0100000000000000'),
      row('0200', '0400', '20000000', table.toString('hex')),
      row('0000', '0400', '0000', '0000', '0000000000000000'),
      ZEROES,
      ZEROES,
      ZEROES,
    ]);
    queue.complete(2, 0);
    queue.publish();
    expect(region().slice(0, 7)).toEqual([
      row('0000000000000000', '0100', '0400', '0200', '0200'),
      row('0100', '0100', '01', '01', '00000000000000000000'),
      row('0100', '0100', '0100', '0200', '0000000000000000'),
      row('0300', '0100', '10000000', '0080000000000000'),
      row('0000', '0200', '0000', '0000', '0000000000000000'),
      row('0300', '0200', '00020000', '0090000000000000'),
      row('0000', '0300', '0200', '0100', '0100000000000000'),
    ]);
  });

  it('gives the recorded chains again, whatever the ring says by then', () => {
    busy();
    ram.bytes(driver.descGpa, 8).fill(0xff);
    const next = open();
    expect(next.hasAvail()).toBe(true);
    expect([takeOne(next), next.chain.count, next.chain.low[1]]).toEqual([3, 2, writable.gpa]);
    expect([takeOne(next), next.chain.count, next.chain.length[1]]).toEqual([2, 2, writable.lengthBytes]);
    expect([next.hasAvail(), next.inFlightCount]).toEqual([false, 2]);
    next.complete(2, 1);
    next.complete(3, 2);
    next.publish();
    expect([driver.popUsed(), driver.popUsed()]).toEqual([
      { head: 2, lengthBytes: 1 },
      { head: 3, lengthBytes: 2 },
    ]);
    expect(next.nextAvail).toBe(driver.base);
  });

  it('goes on from its own positions, also when nothing was in flight', () => {
    const queue = busy();
    for (const id of [2, 3]) queue.complete(id, 0);
    queue.publish();
    while (driver.popUsed());
    const next = open();
    expect([next.hasAvail(), next.nextAvail]).toEqual([false, driver.base]);
  });

  it('rolls back a batch that the ring does not show, with the free list (and tells the ring so)', () => {
    busy();
    bytes.setUint16(12, 2, true);
    bytes.setUint16(16, 1, true);
    driver.setFlags(1, 0x8080);
    expect(open().nextAvail).toBe(0x8000_8003);
    expect([bytes.getUint16(12, true), bytes.getUint16(16, true)]).toEqual([3, 0]);
    expect(driver.flags(1) & 0x8080).toBe(0x80);
  });

  it('serves a ring smaller than the region', () => {
    driver = new FakePackedDriver(ram, { size: 3, eventIdx: false });
    const queue = open(3);
    for (let step = 0; step < 9; step += 1) {
      driver.submit([writable]);
      driver.publish();
      queue.complete(takeOne(queue), 0);
      queue.publish();
      expect(driver.popUsed()).toBeDefined();
    }
  });

  it.each([
    ['another version', 8, 2],
    ['another number of entries', 10, 5],
    ['a used position outside the ring', 18, 4],
    ['a wrap counter above 1', 20, 0x0201],
    ['a free list that leaves the region', 14, 9],
    ['a free list that goes in a circle', 32 + 3 * 32 + 2, 3],
    ['a free list that enters a chain in flight', 32 + 3 * 32 + 2, 0],
    ['a chain of no descriptors', 32 + 6, 0],
    ['a chain longer than the ring', 32 + 6, 5],
    ['a chain that leaves the region', 32 + 2, 9],
    ['a chain that enters another', 32 + 2, 2],
    ['an entry that nobody has', 32 + 6, 1],
    ['a counter that we never write', 32 + 14, 0x10],
    ['two chains of one id', 32 + 2 * 32 + 16, 3],
    ['a chain that ends early', 32 + 18, 0],
    ['a chain that does not end', 32 + 32 + 18, 3],
  ])('refuses %s', (_, at, value) => {
    busy();
    bytes.setUint16(at, value, true);
    expect(faultOf(() => open())).toBe('inflight-invalid');
  });

  it.each([
    ['an id outside the ring', 32 + 32 + 16, 4, 'head-out-of-range'],
    ['a buffer outside the memory', 32 + 30, 1, 'descriptor-outside-memory'],
    ['an empty buffer', 32 + 20, 0, 'descriptor-empty'],
  ])('checks what it recorded as if the ring had said it: %s', (_, at, value, fault) => {
    busy();
    bytes.setUint16(at, value, true);
    expect(faultOf(() => open())).toBe(fault);
  });

  it('refuses a ring larger than the region', () => {
    expect(faultOf(() => open(8))).toBe('inflight-invalid');
  });

  it('is not misguided by a front-end that scribbles over it while it runs', () => {
    const queue = busy();
    new Uint8Array(buffer, 64).fill(0xff);
    queue.complete(2, 0);
    queue.complete(3, 0);
    queue.publish();
    expect([driver.popUsed()?.head, driver.popUsed()?.head]).toEqual([2, 3]);
    for (let step = 0; step < 8; step += 1) {
      driver.submit([readable, writable]);
      driver.publish();
      queue.complete(takeOne(queue), 0);
      queue.publish();
      expect(driver.popUsed()).toBeDefined();
    }
    expect([...new Uint8Array(buffer, 0, 64)].every((byte) => byte === 0)).toBe(true);
  });
});
