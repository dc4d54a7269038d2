import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PackedVirtqueue } from './packed-virtqueue.js';
import {
  DESC,
  DeviceMemory,
  FakePackedDriver,
  GuestRam,
  PACKED_DESC,
  RING_EVENT,
  type Segment,
} from './testing/index.js';
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

describe('the device side of a packed virtqueue', () => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let driver: FakePackedDriver;
  let queue: PackedVirtqueue;
  const readable: Segment = { gpa: 0x8_0000, lengthBytes: 32, writable: false };
  const writable: Segment = { gpa: 0x8_1000, lengthBytes: 64, writable: true };

  beforeEach(() => {
    ram = new GuestRam([{ gpa: 0, sizeBytes: RAM_BYTES }]);
    device = new DeviceMemory(ram);
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const attach = (options: { nextAvail?: number } = {}) =>
    new PackedVirtqueue({
      memory: device.memory,
      addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
      size: driver.size,
      nextAvail: options.nextAvail ?? driver.base,
      eventIdx: driver.eventIdx,
      indirect: true,
    });
  const open = (options: { size?: number; eventIdx?: boolean; base?: number; nextAvail?: number } = {}) => {
    const { size = SIZE, eventIdx = false, base = 0x8000, ...rest } = options;
    driver = new FakePackedDriver(ram, { size, eventIdx, base });
    queue = attach(rest);
  };
  const offer = (count = 1, segments: Segment[] = [writable]) => {
    const ids = Array.from({ length: count }, () => driver.submit(segments));
    return { ids, kick: driver.publish() };
  };
  const takeAll = () => {
    const ids: number[] = [];
    for (let id = queue.peekAvail(); id >= 0; id = queue.peekAvail()) {
      queue.take(id);
      ids.push(id);
    }
    return ids;
  };
  const serve = (ids = takeAll()): boolean => {
    for (const id of ids) queue.complete(id, 1);
    return queue.publish();
  };
  const popAll = () => {
    const heads: number[] = [];
    for (let used = driver.popUsed(); used; used = driver.popUsed()) heads.push(used.head);
    return heads;
  };
  /** Takes the ring to slot `slots` of its first lap, with nothing in flight. */
  const pass = (slots: number) => {
    for (let step = 0; step < slots; step += 1) {
      offer();
      serve();
      popAll();
    }
  };

  describe('taking (§2.8.6, §2.8.21)', () => {
    it('has nothing to take before the driver publishes', () => {
      open();
      driver.submit([writable]);
      expect([queue.hasAvail(), queue.peekAvail()]).toEqual([false, -1]);
      driver.publish();
      expect(queue.hasAvail()).toBe(true);
    });

    it('shows the same chain until it is taken', () => {
      open();
      const { ids } = offer(2);
      expect([queue.peekAvail(), queue.peekAvail()]).toEqual([ids[0], ids[0]]);
      queue.take(ids[0]!);
      expect(queue.peekAvail()).toBe(ids[1]);
      expect(queue.inFlightCount).toBe(1);
    });

    it('shows a chain of several descriptors under the id of its last', () => {
      open();
      const { ids } = offer(1, [readable, readable, writable]);
      expect(queue.peekAvail()).toBe(ids[0]);
      const { chain } = queue;
      expect(chain).toMatchObject({ count: 3, readable: 2, readableBytes: 64, writableBytes: 64 });
      expect([chain.low[2], chain.high[2], chain.length[2]]).toEqual([writable.gpa, 0, 64]);
    });

    it('shows a chain that goes round the end of the ring', () => {
      open();
      pass(SIZE - 1);
      const { ids } = offer(1, [readable, writable, writable]);
      expect(takeAll()).toEqual(ids);
      expect(queue.chain.count).toBe(3);
      serve(ids);
      expect(popAll()).toEqual(ids);
      expect(driver.nextUsed).toEqual({ slot: 2, wrap: false });
    });

    it('shows all entries of an indirect table, whatever their flags and ids say (§2.8.7)', () => {
      open();
      const segments = [readable, ...Array.from({ length: 20 }, () => writable)];
      const id = driver.submit(segments, { indirectAfter: 0 });
      driver.publish();
      expect(queue.peekAvail()).toBe(id);
      expect(queue.chain).toMatchObject({ count: 21, readable: 1, writableBytes: 20 * 64 });
    });

    it('shows an indirect table that is not aligned', () => {
      open();
      const table = ram.allocate(40) + 2;
      driver.writeDescriptorAt(table, { gpa: 0x8_0000, lengthBytes: 16, id: 0, flags: 0 });
      driver.writeDescriptorAt(table + 16, { gpa: 0x8_1000, lengthBytes: 1, id: 0, flags: DESC.WRITE });
      driver.offerRaw({ gpa: table, lengthBytes: 32, id: 5, flags: DESC.INDIRECT });
      expect(queue.peekAvail()).toBe(5);
      expect(queue.chain).toMatchObject({ count: 2, readableBytes: 16, writableBytes: 1 });
    });
  });

  describe('giving back (§2.8.6, §2.8.22)', () => {
    it('shows completed chains only once they are published, all at once', () => {
      open();
      const { ids } = offer(3);
      takeAll();
      for (const id of ids) queue.complete(id, 64);
      expect(driver.popUsed()).toBeUndefined();
      queue.publish();
      expect(popAll()).toEqual(ids);
    });

    it('skips as many slots as the chain took, in the order of completion', () => {
      open();
      const long = driver.submit([readable, readable, writable]);
      const short = driver.submit([writable]);
      driver.publish();
      takeAll();
      queue.complete(short, 7);
      queue.complete(long, 0);
      queue.publish();
      expect([driver.popUsed(), driver.popUsed(), driver.popUsed()]).toEqual([
        { head: short, lengthBytes: 7 },
        { head: long, lengthBytes: 0 },
        undefined,
      ]);
    });

    it('marks a used descriptor as written only when bytes were written (§2.8.3)', () => {
      open();
      const { ids } = offer(2);
      takeAll();
      queue.complete(ids[0]!, 64);
      queue.complete(ids[1]!, 0);
      queue.publish();
      expect(driver.flags(0)).toBe(PACKED_DESC.AVAIL | PACKED_DESC.USED | DESC.WRITE);
      expect(driver.flags(1)).toBe(PACKED_DESC.AVAIL | PACKED_DESC.USED);
    });

    it('counts what is in flight until it completes', () => {
      open();
      offer(3);
      const ids = takeAll();
      queue.complete(ids[1]!, 0);
      expect(queue.inFlightCount).toBe(2);
    });
  });

  describe('positions (vhost-user: vring descriptor indices for packed virtqueues)', () => {
    it('starts a new ring from 0x80008000', () => {
      open();
      expect(queue.nextAvail).toBe(0x8000_8000);
    });

    it('tells both positions, the used one behind by what is in flight', () => {
      open();
      pass(6);
      offer(3);
      takeAll();
      expect(queue.nextAvail).toBe(0x8006_0001);
      serve([driver.ram.getU16(driver.descGpa + 16 * 6 + 12)]);
      expect(queue.nextAvail).toBe(0x8007_0001);
    });

    it('goes on from what an earlier device told', () => {
      open();
      pass(SIZE + 3);
      const base = queue.nextAvail;
      queue = attach({ nextAvail: base });
      const { ids } = offer(SIZE);
      expect(takeAll()).toEqual(ids);
      serve(ids);
      expect(popAll()).toEqual(ids);
    });

    it('takes the used position from the lower half when the upper half is 0', () => {
      open({ nextAvail: 0x8000 });
      pass(3);
      queue = attach({ nextAvail: 0x8003 });
      pass(2 * SIZE);
    });

    it.each([
      ['an avail slot outside the ring', 0x8008_8008],
      ['a used slot outside the ring', 0x8008_8007],
      ['a used position ahead of the avail position', 0x8003_8001],
      ['positions more than one ring apart', 0x8003_0004],
    ])('refuses %s', (_, nextAvail) => {
      open();
      expect(faultOf(() => attach({ nextAvail }))).toBe('ring-base-invalid');
    });
  });

  describe('a base without a record of what is in flight', () => {
    const NEW = 0x8000_8000;

    it.each(Array.from({ length: 2 * SIZE - 1 }, (_, index) => index + 1))(
      'is refused when the ring has gone on from it, by %i slots',
      (slots) => {
        open();
        pass(slots);
        expect(faultOf(() => attach({ nextAvail: NEW }))).toBe('ring-base-stale');
        expect(faultOf(() => attach({ nextAvail: queue.nextAvail }))).toBeUndefined();
      },
    );

    it('is refused when chains of before are in flight, of which one came back out of order', () => {
      open();
      pass(3);
      const base = queue.nextAvail;
      const { ids } = offer(3);
      takeAll();
      serve([ids[1]!]);
      expect(faultOf(() => attach({ nextAvail: base }))).toBe('ring-base-stale');
    });

    it('is refused when it leaves room for chains that nobody knows', () => {
      open();
      offer(2);
      expect(faultOf(() => attach({ nextAvail: 0x8000_8002 }))).toBe('ring-base-stale');
    });

    it('is taken when the driver has gone on and the device has not, as far as a ring goes', () => {
      open();
      pass(SIZE + 3);
      const { ids } = offer(SIZE);
      queue = attach({ nextAvail: queue.nextAvail });
      expect(takeAll()).toEqual(ids);
      serve(ids);
      expect(popAll()).toEqual(ids);
    });
  });

  describe('calls (§2.8.10)', () => {
    it('wants a call when the driver enabled them, and none when it disabled them', () => {
      open();
      offer();
      expect(serve()).toBe(true);
      driver.setDriverEvent(RING_EVENT.DISABLE, 0);
      offer();
      expect(serve()).toBe(false);
    });

    it('wants no call when nothing was completed', () => {
      open();
      expect(queue.publish()).toBe(false);
    });

    it.each([
      ['with', true, [false, false, true, false]],
      ['without', false, [true, true, true, true]],
    ])('heeds a descriptor event %s EVENT_IDX negotiated', (_, eventIdx, wanted) => {
      open({ eventIdx });
      driver.setDriverEvent(RING_EVENT.DESC, 0x8002);
      const calls = wanted.map(() => {
        offer();
        return serve();
      });
      expect(calls).toEqual(wanted);
    });

    it('wants a call for a descriptor event in the middle of a batch, and for one in the next lap', () => {
      open({ eventIdx: true });
      driver.setDriverEvent(RING_EVENT.DESC, 0x8003);
      offer(6);
      expect(serve()).toBe(true);
      popAll();
      driver.setDriverEvent(RING_EVENT.DESC, 0x0001);
      offer(3);
      expect(serve()).toBe(false);
      offer(1);
      expect(serve()).toBe(true);
    });

    it('wants a call for every event slot at every place and batch size, exactly as the ring is walked', () => {
      for (const size of [1, 2, 3, 8]) {
        open({ size, eventIdx: true });
        for (let round = 0; round < 4 * size; round += 1) {
          const count = 1 + (round % size);
          const event = (driver.nextUsed.slot + round) % size;
          // The driver may ask for any slot of the lap that begins at its used position.
          const wrap = event >= driver.nextUsed.slot ? driver.nextUsed.wrap : !driver.nextUsed.wrap;
          const distance = (event - driver.nextUsed.slot + size) % size;
          driver.setDriverEvent(RING_EVENT.DESC, event | (wrap ? 0x8000 : 0));
          offer(count);
          expect([size, round, serve()]).toEqual([size, round, distance < count]);
          popAll();
        }
      }
    });

    it('wants a call when the event slot is outside the ring or the flags are reserved', () => {
      open({ eventIdx: true });
      driver.setDriverEvent(RING_EVENT.DESC, 0x8000 | SIZE);
      offer();
      expect(serve()).toBe(true);
      driver.setDriverEvent(3, 0);
      offer();
      expect(serve()).toBe(true);
    });
  });

  describe.each([true, false])('kicks, EVENT_IDX %s (§2.8.10)', (eventIdx) => {
    it('asks for none while it looks by itself', () => {
      open({ eventIdx });
      queue.disarmKick();
      expect(offer().kick).toBe(false);
    });

    it('asks for one before it sleeps, wherever the ring stands', () => {
      open({ eventIdx });
      for (let round = 0; round < 3 * SIZE; round += 1) {
        queue.disarmKick();
        expect(queue.armKick()).toBe(true);
        expect(offer(1 + (round % 3)).kick).toBe(true);
        serve();
        popAll();
      }
    });

    it('does not sleep when a chain is there already', () => {
      open({ eventIdx });
      queue.disarmKick();
      offer();
      expect(queue.armKick()).toBe(false);
    });
  });

  it('takes a ring of 32768 descriptors twice round', () => {
    open({ size: 32768 });
    for (let round = 0; round < 33; round += 1) {
      const { ids } = offer(2000);
      expect(takeAll()).toEqual(ids);
      serve(ids);
      expect(popAll()).toHaveLength(2000);
    }
    expect(driver.nextUsed).toEqual({ slot: 66000 - 65536, wrap: true });
  });

  describe.each([1, 2, 3, 8, 256])('a ring of %i descriptors against a model', (size) => {
    it.each([true, false])('answers random batches out of order, each once (EVENT_IDX %s)', (eventIdx) => {
      const random = seeded(size * 2 + Number(eventIdx));
      const start = [0x8000, 0, 0x8000 | (size - 1), size >> 1][Math.floor(random() * 4)]!;
      open({ size, eventIdx, base: start });
      const model = new Map<number, { lengthBytes: number; count: number }>();
      const inFlight: number[] = [];
      const written = new Map<number, number>();
      let armed = queue.armKick();
      let asked = true;
      let answered = 0;
      for (let step = 0; step < 4000 && answered < 40 * size; step += 1) {
        // The driver: a batch of chains of any shape that fits.
        for (let wanted = Math.floor(random() * 4); wanted > 0 && driver.freeDescriptors > 0; wanted -= 1) {
          const indirect = random() < 0.3;
          const room = indirect ? 20 : Math.min(driver.freeDescriptors, 6);
          const count = 1 + Math.floor(random() * room);
          const readables = Math.floor(random() * count);
          const segments = Array.from({ length: count }, (_, index) => ({
            gpa: 0x8_0000 + Math.floor(random() * 0x1000),
            lengthBytes: 1 + Math.floor(random() * 500),
            writable: index >= readables,
          }));
          const id = driver.submit(segments, indirect ? { indirectAfter: 0 } : {});
          const lengthBytes = segments.reduce((sum, s) => sum + (s.writable ? s.lengthBytes : 0), 0);
          model.set(id, { lengthBytes, count });
        }
        const kick = driver.publish();
        // A device that sleeps is kicked whenever something new is there.
        if (armed && queue.hasAvail()) expect([step, kick]).toEqual([step, true]);
        queue.disarmKick();

        // The device: takes some, completes some in any order, publishes now and then.
        for (let id = queue.peekAvail(); id >= 0 && random() < 0.9; id = queue.peekAvail()) {
          const chain = model.get(id);
          expect(queue.chain).toMatchObject({ count: chain?.count, writableBytes: chain?.lengthBytes });
          queue.take(id);
          inFlight.push(id);
        }
        while (inFlight.length > 0 && random() < 0.7) {
          const [id] = inFlight.splice(Math.floor(random() * inFlight.length), 1);
          const bytes = Math.floor(random() * (model.get(id!)!.lengthBytes + 1));
          queue.complete(id!, bytes);
          written.set(id!, bytes);
        }
        const unpublished = written.size;
        const call = queue.publish();
        if (asked && unpublished > 0) expect([step, call]).toEqual([step, true]);
        armed = queue.armKick();

        // The driver again: takes back all, none, or stops listening.
        if (random() < 0.8) {
          for (let used = driver.popUsed(); used; used = driver.popUsed()) {
            expect(used.lengthBytes).toBe(written.get(used.head));
            written.delete(used.head);
            model.delete(used.head);
            answered += 1;
          }
          asked = random() < 0.7;
          driver.wantCalls(asked);
        } else {
          asked = false;
        }
      }
      for (const id of inFlight.splice(0).concat(takeAll())) {
        queue.complete(id, 0);
        written.set(id, 0);
      }
      queue.publish();
      for (const head of popAll()) model.delete(head);
      expect([model.size, driver.inFlightCount, queue.inFlightCount]).toEqual([0, 0, 0]);
      expect(answered).toBeGreaterThanOrEqual(20 * size);
      expect(queue.nextAvail).toBe(driver.base);
    });
  });
});

/** Pseudo-random numbers in [0, 1) that are the same in each run (mulberry32). */
const seeded = (seed: number) => (): number => {
  seed = (seed + 0x6d2b_79f5) | 0;
  let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
};
