import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DeviceMemory, FakeDriver, FakePackedDriver, GuestRam } from './testing/index.js';
import { inflightBytes, makeVirtqueue } from './virtqueue.js';

const SIZE = 8;

describe.each([false, true])('a virtqueue, packed %s', (packed) => {
  let ram: GuestRam;
  let device: DeviceMemory;
  beforeEach(() => {
    ram = new GuestRam([{ gpa: 0, sizeBytes: 0x1_0000 }]);
    device = new DeviceMemory(ram);
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const make = (version: number) => {
    const Driver = packed ? FakePackedDriver : FakeDriver;
    const driver = new Driver(ram, { size: SIZE, eventIdx: false });
    const buffer = new ArrayBuffer(inflightBytes(SIZE, { packed }));
    new DataView(buffer).setUint16(8, version, true);
    const told: ArrayBuffer[] = [];
    const start = () =>
      makeVirtqueue({
        memory: device.memory,
        addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
        size: SIZE,
        nextAvail: packed ? 0x8000_8000 : 0,
        eventIdx: false,
        indirect: false,
        packed,
        inflight: { buffer, entries: SIZE },
        onViews: (views) => told.push(...views),
      });
    return { start, told };
  };

  it('tells of its views over guest memory', () => {
    const { start, told } = make(0);
    expect(start().hasAvail()).toBe(false);
    expect(told).toHaveLength(3);
  });

  it('tells of them also when its record is forged, so that they can end', () => {
    const { start, told } = make(7);
    expect(start).toThrow('inflight-invalid');
    expect(told).toHaveLength(3);
    expect(device.views).toHaveLength(3);
  });
});
