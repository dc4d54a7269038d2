import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PackedVirtqueue } from './packed-virtqueue.js';
import { SplitVirtqueue } from './split-virtqueue.js';
import { DeviceMemory, GuestRam, makeRingDriver, type RingDriver, type Segment } from './testing/index.js';
import { inflightBytes, makeVirtqueue, virtqueueBytes, type VirtqueueConfig } from './virtqueue.js';
import { VirtqueueError } from './virtqueue-error.js';

const SIZE = 8;

const faultOf = (action: () => unknown): string | undefined => {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof VirtqueueError) return error.fault;
    throw error;
  }
};

describe.each([
  ['split', false],
  ['packed', true],
])('a virtqueue made by its layout: %s', (_, packed) => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let driver: RingDriver;
  let piece: Segment;

  beforeEach(() => {
    ram = new GuestRam([{ gpa: 0, sizeBytes: 0x2_0000 }]);
    device = new DeviceMemory(ram);
    piece = { gpa: ram.allocate(64), lengthBytes: 64, writable: true };
    driver = makeRingDriver(ram, { packed, size: SIZE, eventIdx: false });
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const make = (more: Partial<VirtqueueConfig> = {}) =>
    makeVirtqueue({
      memory: device.memory,
      addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
      size: SIZE,
      nextAvail: driver.base,
      eventIdx: false,
      indirect: true,
      packed,
      ...more,
    });
  const offer = (count: number) => {
    const heads = Array.from({ length: count }, () => driver.submit([piece]));
    driver.publish();
    return heads;
  };
  const take = (queue: ReturnType<typeof make>): number => {
    const head = queue.peekAvail();
    if (head >= 0) queue.take(head);
    return head;
  };

  it('is of the class of its layout', () => {
    expect(make()).toBeInstanceOf(packed ? PackedVirtqueue : SplitVirtqueue);
  });

  it('gives chains back to the driver, one verb for both layouts', () => {
    const queue = make();
    const heads = offer(3);
    const taken = [take(queue), take(queue), take(queue)];
    expect(taken).toEqual(heads);
    expect([take(queue), queue.inFlightCount]).toEqual([-1, 3]);
    for (const head of taken.toReversed()) queue.complete(head, 7);
    expect(driver.popUsed()).toBeUndefined();
    queue.publish();
    expect([1, 2, 3].map(() => driver.popUsed()!.head)).toEqual(taken.toReversed());
    expect([queue.inFlightCount, queue.nextAvail]).toEqual([0, driver.drainedBase]);
  });

  it('takes up what a dead one had in flight, and only that, from its record', () => {
    const buffer = new ArrayBuffer(inflightBytes(SIZE, { packed }));
    const inflight = { buffer, entries: SIZE };
    const first = make({ inflight });
    const heads = offer(4);
    const taken = [take(first), take(first), take(first)];
    first.complete(taken[1]!, 1);
    first.publish();
    expect(driver.popUsed()!.head).toBe(heads[1]);

    const second = make({ inflight, nextAvail: driver.baseFromMemory });
    expect(second.hasAvail()).toBe(true);
    expect([take(second), take(second), take(second), take(second)]).toEqual([
      heads[0],
      heads[2],
      heads[3],
      -1,
    ]);
    for (const head of [heads[3]!, heads[2]!, heads[0]!]) second.complete(head, 1);
    second.publish();
    expect([1, 2, 3].map(() => driver.popUsed()!.head)).toEqual([heads[3], heads[2], heads[0]]);
    expect([driver.inFlightCount, second.nextAvail]).toEqual([0, driver.drainedBase]);
  });

  it('makes again what was completed and not published', () => {
    const buffer = new ArrayBuffer(inflightBytes(SIZE, { packed }));
    const inflight = { buffer, entries: SIZE };
    const first = make({ inflight });
    const [head] = offer(1);
    take(first);
    first.complete(head!, 1);
    const second = make({ inflight, nextAvail: driver.baseFromMemory });
    expect(take(second)).toBe(head);
    second.complete(head!, 1);
    second.publish();
    expect([driver.popUsed()!.head, driver.popUsed()]).toEqual([head, undefined]);
  });

  it('refuses a record that is smaller than the ring, or of another number of entries', () => {
    const small = { buffer: new ArrayBuffer(inflightBytes(4, { packed })), entries: 4 };
    expect(faultOf(() => make({ inflight: small }))).toBe('inflight-invalid');
    const short = { buffer: new ArrayBuffer(64), entries: SIZE };
    expect(faultOf(() => make({ inflight: short }))).toBe('inflight-invalid');
    const buffer = new ArrayBuffer(inflightBytes(16, { packed }));
    make({ inflight: { buffer, entries: 16 } });
    expect(faultOf(() => make({ inflight: { buffer, entries: SIZE } }))).toBe('inflight-invalid');
  });

  it('refuses a record of another version', () => {
    const buffer = new ArrayBuffer(inflightBytes(SIZE, { packed }));
    make({ inflight: { buffer, entries: SIZE } });
    new DataView(buffer).setUint16(8, 2, true);
    expect(faultOf(() => make({ inflight: { buffer, entries: SIZE } }))).toBe('inflight-invalid');
  });
});

describe('the sizes that depend on the layout', () => {
  it('are those of the parts of a split ring (virtio 1.2 §2.7)', () => {
    expect(virtqueueBytes(8, { packed: false })).toEqual({
      descriptors: 16 * 8,
      avail: 6 + 2 * 8,
      used: 6 + 8 * 8,
    });
  });

  it('are those of the parts of a packed ring (virtio 1.2 §2.8)', () => {
    expect(virtqueueBytes(7, { packed: true })).toEqual({ descriptors: 16 * 7, avail: 4, used: 4 });
  });

  it('are those of QueueRegionSplit and QueueRegionPacked (vhost-user, "Inflight I/O tracking")', () => {
    expect([1, 128].map((entries) => inflightBytes(entries, { packed: false }))).toEqual([64, 2112]);
    expect([1, 128].map((entries) => inflightBytes(entries, { packed: true }))).toEqual([64, 4160]);
  });
});
