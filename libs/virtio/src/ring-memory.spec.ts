import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ringBytes, RingMemory } from './ring-memory.js';
import { DeviceMemory, FakeDriver, GuestRam } from './testing/index.js';
import { VirtqueueError } from './virtqueue-error.js';

const GPA = 0x1_0000;
const BYTES = 0x10_0000;
const FAR_GPA = 0x1_0000_0000;

describe('the shared words of a split virtqueue', () => {
  let ram: GuestRam;
  let device: DeviceMemory;

  beforeEach(() => {
    ram = new GuestRam([
      { gpa: GPA, sizeBytes: BYTES },
      { gpa: FAR_GPA, sizeBytes: 0x1000 },
    ]);
    device = new DeviceMemory(ram);
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const faultOf = (
    addresses: Partial<{ descriptors: number; avail: number; used: number }>,
    size = 8,
  ): string | undefined => {
    const right = { descriptors: GPA, avail: GPA + 0x1000, used: GPA + 0x2000 };
    try {
      void new RingMemory(device.memory, { ...right, ...addresses }, size);
      return undefined;
    } catch (error) {
      if (error instanceof VirtqueueError) return error.fault;
      throw error;
    }
  };

  it('knows the size of its parts, event words included (virtio 1.2 §2.7)', () => {
    expect(ringBytes(256)).toEqual({ descriptors: 4096, avail: 518, used: 2054 });
  });

  it('takes every power of two up to 32768 as its size and nothing else (virtio 1.2 §2.7)', () => {
    for (let size = 1; size <= 32768; size *= 2)
      expect(faultOf({ avail: GPA + 0x8_0000, used: GPA + 0x9_1000 }, size)).toBeUndefined();
    for (const size of [0, 3, 127, 32767, 65536, 0x80000000, 0xffffffff])
      expect(faultOf({}, size)).toBe('ring-size-invalid');
  });

  it('refuses a misaligned part (virtio 1.2 §2.7: 16, 2 and 4 bytes)', () => {
    expect(faultOf({ descriptors: GPA + 8 })).toBe('ring-misaligned');
    expect(faultOf({ avail: GPA + 1 })).toBe('ring-misaligned');
    expect(faultOf({ used: GPA + 2 })).toBe('ring-misaligned');
    expect(faultOf({ avail: GPA + 0x1002, used: GPA + 0x2004 })).toBeUndefined();
  });

  it('refuses a part that is not mapped to its last byte', () => {
    const { descriptors, avail, used } = ringBytes(8);
    expect(faultOf({ descriptors: GPA + BYTES - descriptors })).toBeUndefined();
    expect(faultOf({ descriptors: GPA + BYTES - descriptors + 16 })).toBe('ring-outside-memory');
    expect(faultOf({ avail: GPA + BYTES - avail + 2 })).toBe('ring-outside-memory');
    expect(faultOf({ used: GPA + BYTES - used })).toBe('ring-misaligned');
    expect(faultOf({ used: GPA + BYTES - used + 2 })).toBe('ring-outside-memory');
    expect(faultOf({ used: 0 })).toBe('ring-outside-memory');
  });

  it('makes no view when a later part is refused', () => {
    faultOf({ used: GPA + 2 });
    faultOf({ avail: FAR_GPA + 0x1000 });
    expect(device.views).toEqual([]);
  });

  it('reads and writes each word where the driver has it', () => {
    const driver = new FakeDriver(ram, { size: 8, eventIdx: true, region: 1 });
    const addresses = { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa };
    const ring = new RingMemory(device.memory, addresses, 8);
    driver.writeDescriptor(7, {
      gpa: 0x1122334455667788n,
      lengthBytes: 0x99aabbcc,
      flags: 0xddee,
      next: 0xff00,
    });
    expect([...ring.descriptors.subarray(28)]).toEqual([0x55667788, 0x11223344, 0x99aabbcc, 0xff00ddee]);
    driver.setAvailEntry(7, 3);
    driver.setAvailIdx(65535);
    driver.setUsedEvent(0x1234);
    expect(ring.availEntry(7)).toBe(3);
    expect(ring.availIdx()).toBe(65535);
    expect(ring.usedEvent()).toBe(0x1234);
    driver.setAvailFlags(1);
    expect(ring.interruptsWanted()).toBe(false);
    driver.setAvailFlags(0xfffe);
    expect(ring.interruptsWanted()).toBe(true);

    ring.writeUsed(7, 5, 0xfffffff1);
    ring.publishUsed(65536 + 9);
    ring.setAvailEvent(-1);
    ring.setNoNotify(true);
    const { usedGpa } = driver;
    expect(ram.getU32(usedGpa + 4 + 8 * 7)).toBe(5);
    expect(ram.getU32(usedGpa + 8 + 8 * 7)).toBe(0xfffffff1);
    expect(driver.usedIdx).toBe(9);
    expect(ring.usedIdx()).toBe(9);
    expect(ram.getU16(usedGpa + 4 + 8 * 8)).toBe(0xffff);
    expect(driver.usedFlags).toBe(1);
  });

  it('tells every view, so that all can be ended', () => {
    const driver = new FakeDriver(ram, { size: 4, eventIdx: false });
    const addresses = { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa };
    const ring = new RingMemory(device.memory, addresses, 4);
    expect(ring.buffers.map((buffer) => buffer.byteLength)).toEqual([64, 14, 38]);
    expect(device.views.map((view) => view.lengthBytes)).toEqual([64, 14, 38]);
  });
});
