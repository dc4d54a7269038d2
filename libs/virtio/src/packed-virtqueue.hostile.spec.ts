import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PackedVirtqueue } from './packed-virtqueue.js';
import { DESC, DeviceMemory, FakePackedDriver, GuestRam } from './testing/index.js';
import { VirtqueueError } from './virtqueue-error.js';

const SIZE = 8;
const RAM_BYTES = 0x10_0000;

const faultOf = (action: () => unknown): string | undefined => {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof VirtqueueError) return error.fault;
    throw error;
  }
};

describe('a driver that breaks a packed ring', () => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let driver: FakePackedDriver;
  let queue: PackedVirtqueue;

  beforeEach(() => {
    ram = new GuestRam([{ gpa: 0, sizeBytes: RAM_BYTES }]);
    device = new DeviceMemory(ram);
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const open = ({ size = SIZE, indirect = true } = {}) => {
    driver = new FakePackedDriver(ram, { size, eventIdx: false });
    queue = new PackedVirtqueue({
      memory: device.memory,
      addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
      size,
      nextAvail: driver.base,
      eventIdx: false,
      indirect,
    });
  };
  const takeAll = () => {
    const ids: number[] = [];
    for (let id = queue.peekAvail(); id >= 0; id = queue.peekAvail()) {
      queue.take(id);
      ids.push(id);
    }
    return ids;
  };
  const buffer = { gpa: 0x8_0000, lengthBytes: 16, id: 0, flags: 0 };
  const next = { ...buffer, flags: DESC.NEXT };

  it.each([
    ['an id outside the ring', [{ ...buffer, id: SIZE }], 'head-out-of-range'],
    ['the highest id', [{ ...buffer, id: 0xffff }], 'head-out-of-range'],
    ['an empty descriptor', [{ ...buffer, lengthBytes: 0 }], 'descriptor-empty'],
    ['a descriptor past the memory', [{ ...buffer, gpa: RAM_BYTES - 8 }], 'descriptor-outside-memory'],
    [
      'a descriptor at the end of the address space',
      [{ ...buffer, gpa: 2n ** 64n - 8n }],
      'descriptor-outside-memory',
    ],
    ['a huge descriptor', [{ ...buffer, lengthBytes: 0xffff_ffff }], 'descriptor-outside-memory'],
    [
      'a device-readable buffer after a device-writable one',
      [{ ...next, flags: DESC.NEXT | DESC.WRITE }, buffer],
      'readable-after-writable',
    ],
    ['a chain that ends where nothing is available', [next, next], 'descriptor-not-available'],
    ['a chain longer than the ring', Array.from({ length: SIZE }, () => next), 'descriptor-not-available'],
    [
      'an empty indirect table',
      [{ ...buffer, lengthBytes: 0, flags: DESC.INDIRECT }],
      'indirect-size-invalid',
    ],
    [
      'an indirect table of odd size',
      [{ ...buffer, lengthBytes: 24, flags: DESC.INDIRECT }],
      'indirect-size-invalid',
    ],
    [
      'an indirect table past the memory',
      [{ ...buffer, gpa: RAM_BYTES - 16, lengthBytes: 32, flags: DESC.INDIRECT }],
      'descriptor-outside-memory',
    ],
    [
      'an indirect table of more than 1024 entries',
      [{ ...buffer, lengthBytes: 16 * 1025, flags: DESC.INDIRECT }],
      'chain-too-long',
    ],
    [
      'an indirect table with a successor',
      [{ ...buffer, lengthBytes: 16, flags: DESC.INDIRECT | DESC.NEXT }, buffer],
      'indirect-with-next',
    ],
    [
      'an indirect table behind a direct descriptor',
      [next, { ...buffer, lengthBytes: 16, flags: DESC.INDIRECT }],
      'indirect-with-next',
    ],
  ] as const)('is stopped for %s', (_, descriptors, fault) => {
    open();
    driver.offerRaw(...descriptors);
    expect(faultOf(() => queue.peekAvail())).toBe(fault);
  });

  it('is stopped for an indirect table that it did not negotiate', () => {
    open({ indirect: false });
    driver.offerRaw({ ...buffer, flags: DESC.INDIRECT });
    expect(faultOf(() => queue.peekAvail())).toBe('indirect-not-negotiated');
  });

  it('is stopped for an empty descriptor in an indirect table', () => {
    open();
    const table = ram.allocate(16);
    driver.writeDescriptorAt(table, { ...buffer, lengthBytes: 0 });
    driver.offerRaw({ ...buffer, gpa: table, flags: DESC.INDIRECT });
    expect(faultOf(() => queue.peekAvail())).toBe('descriptor-empty');
  });

  it('is stopped for a chain of more than 1024 descriptors', () => {
    open({ size: 2048 });
    driver.offerRaw(...Array.from({ length: 1024 }, () => next), buffer);
    expect(faultOf(() => queue.peekAvail())).toBe('chain-too-long');
  });

  it('is stopped for chains of more than 2^32 bytes', () => {
    device.close();
    ram.close();
    ram = new GuestRam([{ gpa: 0, sizeBytes: 0x50_0000 }]);
    device = new DeviceMemory(ram);
    open();
    const table = ram.allocate(16 * 1024);
    for (let entry = 0; entry < 1024; entry += 1) {
      driver.writeDescriptorAt(table + 16 * entry, { ...buffer, gpa: 0, lengthBytes: 2 ** 22 });
    }
    driver.offerRaw({ ...buffer, gpa: table, lengthBytes: 16 * 1024, flags: DESC.INDIRECT });
    expect(queue.peekAvail()).toBe(0);
    ram.setU32(table + 8, 2 ** 22 + 1);
    expect(faultOf(() => queue.peekAvail())).toBe('chain-too-large');
  });

  it('is stopped for an id that is in flight, also while its completion is unpublished', () => {
    open();
    driver.offerRaw(buffer, buffer);
    queue.take(queue.peekAvail());
    expect(faultOf(() => queue.peekAvail())).toBe('head-in-flight');
    queue.complete(0, 0);
    expect(faultOf(() => queue.peekAvail())).toBe('head-in-flight');
    queue.publish();
    expect(queue.peekAvail()).toBe(0);
  });

  it('is stopped when it overwrites descriptors that are in flight', () => {
    open();
    for (let id = 0; id < SIZE; id += 1) driver.offerRaw({ ...buffer, id });
    const ids = takeAll();
    expect(ids).toHaveLength(SIZE);
    queue.complete(7, 0);
    queue.publish();
    driver.offerRaw({ ...next, id: 7 }, { ...buffer, id: 7 });
    expect(faultOf(() => queue.peekAvail())).toBe('avail-idx-overrun');
  });

  it('gains nothing from changing a descriptor after it was looked at', () => {
    open();
    driver.offerRaw(buffer);
    queue.take(queue.peekAvail());
    driver.writeDescriptor(0, { gpa: 2n ** 63n, lengthBytes: 0xffff_ffff, id: 77, flags: 0xffff });
    expect([queue.chain.low[0], queue.chain.length[0]]).toEqual([buffer.gpa, 16]);
    queue.complete(0, 0);
    queue.publish();
    expect(ram.getU16(driver.descGpa + 12)).toBe(0);
  });

  it.each([
    ['size 0', { size: 0 }, 'ring-size-invalid'],
    ['a size above 32768', { size: 32769 }, 'ring-size-invalid'],
    ['a fractional size', { size: 1.5 }, 'ring-size-invalid'],
    ['a misaligned descriptor ring', { descriptors: 8 }, 'ring-misaligned'],
    ['a misaligned driver event', { avail: 2 }, 'ring-misaligned'],
    ['a misaligned device event', { used: 1 }, 'ring-misaligned'],
    ['a descriptor ring past the memory', { descriptors: RAM_BYTES - 16 }, 'ring-outside-memory'],
    ['a driver event past the memory', { avail: RAM_BYTES }, 'ring-outside-memory'],
    ['a device event past the memory', { used: 2 ** 44 }, 'ring-outside-memory'],
  ])('cannot set up %s', (_, broken: Record<string, number>, fault) => {
    const { size = SIZE, ...parts } = broken;
    const addresses = { descriptors: 0x1000, avail: 0x2000, used: 0x2004, ...parts };
    const start = { memory: device.memory, addresses, size, nextAvail: 0x8000_8000 };
    expect(faultOf(() => new PackedVirtqueue({ ...start, eventIdx: false, indirect: false }))).toBe(fault);
    expect(device.views).toEqual([]);
  });
});
