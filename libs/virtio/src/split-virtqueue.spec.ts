import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SplitVirtqueue } from './split-virtqueue.js';
import { DeviceMemory, FakeDriver, GuestRam, type Segment } from './testing/index.js';
import { VirtqueueError } from './virtqueue-error.js';

const SIZE = 8;

describe('the device side of a split virtqueue', () => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let driver: FakeDriver;
  let queue: SplitVirtqueue;
  let piece: Segment;

  beforeEach(() => {
    ram = new GuestRam([{ gpa: 0, sizeBytes: 0x2_0000 }]);
    device = new DeviceMemory(ram);
    piece = { gpa: 0x1_f000, lengthBytes: 64, writable: true };
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const open = (options: { eventIdx?: boolean; base?: number; nextAvail?: number } = {}) => {
    const { eventIdx = false, base = 0, nextAvail = base } = options;
    driver = new FakeDriver(ram, { size: SIZE, eventIdx, base });
    queue = new SplitVirtqueue({
      memory: device.memory,
      addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
      size: SIZE,
      nextAvail,
      eventIdx,
      indirect: true,
    });
  };
  const offer = (count = 1) => {
    const heads = Array.from({ length: count }, () => driver.submit([piece]));
    return { heads, kick: driver.publish() };
  };
  const takeAll = () => {
    const heads: number[] = [];
    for (let head = queue.peekAvail(); head >= 0; head = queue.peekAvail()) {
      queue.take(head);
      heads.push(head);
    }
    return heads;
  };
  const faultOf = (action: () => unknown): string | undefined => {
    try {
      action();
      return undefined;
    } catch (error) {
      if (error instanceof VirtqueueError) return error.fault;
      throw error;
    }
  };

  it('has nothing to take before the driver publishes', () => {
    open();
    driver.submit([piece]);
    expect(queue.hasAvail()).toBe(false);
    expect(queue.peekAvail()).toBe(-1);
    driver.publish();
    expect(queue.hasAvail()).toBe(true);
  });

  it('shows the same chain until it is taken', () => {
    open();
    const { heads } = offer(2);
    expect(queue.peekAvail()).toBe(heads[0]);
    expect(queue.peekAvail()).toBe(heads[0]);
    expect(queue.inFlightCount).toBe(0);
    queue.take(heads[0]!);
    expect(queue.peekAvail()).toBe(heads[1]);
    expect(queue.inFlightCount).toBe(1);
    expect(queue.nextAvail).toBe(1);
  });

  it('gives chains back in any order, with their lengths, and not before it publishes (virtio 1.2 §2.7.8)', () => {
    open();
    const { heads } = offer(3);
    expect(takeAll()).toEqual(heads);
    queue.complete(heads[2]!, 7);
    queue.complete(heads[0]!, 0);
    expect(driver.popUsed()).toBeUndefined();
    queue.publish();
    expect(driver.popUsed()).toEqual({ head: heads[2], lengthBytes: 7 });
    expect(driver.popUsed()).toEqual({ head: heads[0], lengthBytes: 0 });
    expect(driver.popUsed()).toBeUndefined();
    expect(queue.inFlightCount).toBe(1);
  });

  it('goes on across 65535 → 0 in both rings (virtio 1.2 §2.7.6)', () => {
    for (const eventIdx of [false, true]) {
      open({ eventIdx, base: 65533 });
      driver.wantCalls(true);
      for (let round = 0; round < 3; round += 1) {
        const { heads, kick } = offer(2);
        expect(kick).toBe(true);
        expect(takeAll()).toEqual(heads);
        for (const head of heads) queue.complete(head, 64);
        expect(queue.publish()).toBe(true);
        expect([driver.popUsed()?.head, driver.popUsed()?.head]).toEqual(heads);
        driver.wantCalls(true);
        expect(queue.armKick()).toBe(true);
      }
      expect(queue.nextAvail).toBe(3);
      expect(driver.usedIdx).toBe(3);
    }
  });

  it('holds a full ring across the wrap', () => {
    open({ base: 65530 });
    const { heads } = offer(SIZE);
    expect(takeAll()).toEqual(heads);
    for (const head of heads) queue.complete(head, 1);
    queue.publish();
    expect(heads.map(() => driver.popUsed()?.head)).toEqual(heads);
  });

  /** A device that comes after, told to go on at `nextAvail`. */
  const reopen = (nextAvail: number) => {
    queue = new SplitVirtqueue({
      memory: device.memory,
      addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
      size: SIZE,
      nextAvail,
      eventIdx: false,
      indirect: true,
    });
  };

  it('starts where an earlier device stopped, also with chains that were never taken', () => {
    open({ base: 100 });
    const { heads } = offer(3);
    queue.take(queue.peekAvail());
    queue.complete(heads[0]!, 1);
    queue.publish();
    const { nextAvail } = queue;
    expect(nextAvail).toBe(101);
    reopen(nextAvail);
    expect(takeAll()).toEqual(heads.slice(1));
    queue.complete(heads[1]!, 2);
    queue.publish();
    expect([driver.popUsed()?.head, driver.popUsed()?.head]).toEqual(heads.slice(0, 2));
  });

  it.each([100, 65534])('answers nothing again that was answered after its base was noted: %s', (base) => {
    open({ base });
    const { heads } = offer(4);
    takeAll();
    // The front-end looks at the used ring and goes; the device completes what it had, as devices do.
    for (const head of heads.slice(0, 3)) queue.complete(head, 1);
    queue.publish();
    reopen(base);
    expect(queue.nextAvail).toBe((base + 3) & 0xffff);
    expect(takeAll()).toEqual(heads.slice(3));
  });

  it('refuses an avail index more than one queue ahead (virtio 1.2 §2.7.6)', () => {
    open();
    driver.setAvailIdx(SIZE + 1);
    expect(faultOf(() => queue.peekAvail())).toBe('avail-idx-overrun');
    driver.setAvailIdx(65535);
    expect(faultOf(() => queue.peekAvail())).toBe('avail-idx-overrun');
  });

  it('refuses a head that is not in the table', () => {
    open();
    driver.offerRaw(SIZE);
    expect(faultOf(() => queue.peekAvail())).toBe('head-out-of-range');
  });

  it('refuses a head that it has already, until it gave it back', () => {
    open();
    const { heads } = offer();
    takeAll();
    driver.offerRaw(heads[0]!);
    expect(faultOf(() => queue.peekAvail())).toBe('head-in-flight');
    queue.complete(heads[0]!, 0);
    expect(queue.peekAvail()).toBe(heads[0]);
  });

  it('takes nothing of a chain that breaks a rule', () => {
    open();
    driver.writeDescriptor(0, { gpa: 0, lengthBytes: 0, flags: 0, next: 0 });
    driver.offerRaw(0);
    expect(faultOf(() => queue.peekAvail())).toBe('descriptor-empty');
    expect(queue.nextAvail).toBe(0);
    expect(queue.inFlightCount).toBe(0);
  });

  describe('without EVENT_IDX', () => {
    it('calls unless the driver set NO_INTERRUPT (virtio 1.2 §2.7.7.1)', () => {
      open();
      const { heads } = offer(2);
      takeAll();
      driver.wantCalls(false);
      queue.complete(heads[0]!, 0);
      expect(queue.publish()).toBe(false);
      driver.wantCalls(true);
      queue.complete(heads[1]!, 0);
      expect(queue.publish()).toBe(true);
    });

    it('asks for no kicks while it looks by itself (virtio 1.2 §2.7.10)', () => {
      open();
      queue.disarmKick();
      expect(offer().kick).toBe(false);
      takeAll();
      expect(queue.armKick()).toBe(true);
      expect(offer().kick).toBe(true);
    });

    it('finds a chain that came before it asked for kicks', () => {
      open();
      queue.disarmKick();
      offer();
      expect(queue.armKick()).toBe(false);
    });
  });

  describe('with EVENT_IDX', () => {
    // event = the used index at which the driver wants a call; before → after = what one publish covers.
    it.each([
      { event: 0, before: 0, after: 1, call: true },
      { event: 1, before: 0, after: 1, call: false },
      { event: 0, before: 0, after: 3, call: true },
      { event: 2, before: 0, after: 3, call: true },
      { event: 3, before: 0, after: 3, call: false },
      { event: 65535, before: 0, after: 3, call: false },
      { event: 65535, before: 65534, after: 1, call: true },
      { event: 0, before: 65534, after: 1, call: true },
      { event: 1, before: 65534, after: 1, call: false },
      { event: 65533, before: 65534, after: 1, call: false },
      { event: 0x8000, before: 0, after: 8, call: false },
    ])('for used_event $event calls on $before → $after: $call (virtio 1.2 §2.7.7.2)', (row) => {
      open({ eventIdx: true, base: row.before });
      const count = (row.after - row.before) & 0xffff;
      const { heads } = offer(count);
      takeAll();
      driver.setUsedEvent(row.event);
      for (const head of heads) queue.complete(head, 0);
      expect(queue.publish()).toBe(row.call);
    });

    it('pays no heed to NO_INTERRUPT (virtio 1.2 §2.7.7.2)', () => {
      open({ eventIdx: true });
      const { heads } = offer();
      takeAll();
      driver.setAvailFlags(1);
      driver.setUsedEvent(0);
      queue.complete(heads[0]!, 0);
      expect(queue.publish()).toBe(true);
    });

    it('calls for nothing twice: a publish with nothing new is silent', () => {
      open({ eventIdx: true });
      const { heads } = offer();
      takeAll();
      queue.complete(heads[0]!, 0);
      expect(queue.publish()).toBe(true);
      expect(queue.publish()).toBe(false);
    });

    it('is kicked for the chain after it armed, and only for that one (virtio 1.2 §2.7.10)', () => {
      open({ eventIdx: true, base: 65535 });
      expect(queue.armKick()).toBe(true);
      expect(offer().kick).toBe(true);
      expect(offer().kick).toBe(false);
    });

    it('is not kicked while it looks by itself', () => {
      open({ eventIdx: true });
      queue.disarmKick();
      for (let round = 0; round < 3; round += 1) {
        expect(offer().kick).toBe(false);
        for (const head of takeAll()) queue.complete(head, 0);
        queue.publish();
        driver.popUsed();
      }
    });

    it('finds a chain that came before it asked for kicks, and is kicked for the one after', () => {
      open({ eventIdx: true });
      queue.disarmKick();
      offer();
      expect(queue.armKick()).toBe(false);
      takeAll();
      expect(queue.armKick()).toBe(true);
      expect(offer().kick).toBe(true);
    });
  });
});
