import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GuestMemory } from './guest-memory.js';
import { PackedInflight, packedInflightBytes } from './packed-inflight.js';
import { PackedVirtqueue } from './packed-virtqueue.js';
import { SplitInflight, splitInflightBytes } from './split-inflight.js';
import { SplitVirtqueue } from './split-virtqueue.js';
import { StoreByStore } from './testing/each-store.js';
import { DeviceMemory, FakeDriver, FakePackedDriver, GuestRam, type Segment } from './testing/index.js';

/** Pseudo-random numbers in [0, 1) that are the same in each run (mulberry32). */
const seeded = (seed: number) => (): number => {
  seed = (seed + 0x6d2b_79f5) | 0;
  let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
};

/** What a test drives: a queue with a record, made anew over the same memory after each death. */
interface TrackedQueue {
  peekAvail(): number;
  take(id: number): void;
  complete(id: number, writtenBytes: number): void;
  publish(): void;
}

/** A split queue with its record, joined as a device would. */
class TrackedSplitQueue implements TrackedQueue {
  private readonly queue: SplitVirtqueue;
  private readonly inflight: SplitInflight;
  private readonly left: number[];
  private used: number;

  constructor(memory: GuestMemory, driver: FakeDriver, buffer: ArrayBuffer) {
    const { size } = driver;
    this.used = driver.usedIdx;
    this.inflight = new SplitInflight({ buffer, offsetBytes: 0, entries: size });
    const resumption = this.inflight.resume(size, this.used);
    this.left = [...(resumption?.heads ?? [])];
    this.queue = new SplitVirtqueue({
      memory,
      addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
      size,
      nextAvail: resumption?.nextAvail ?? driver.usedIdx,
      eventIdx: driver.eventIdx,
      indirect: true,
    });
  }

  peekAvail(): number {
    return this.left[0] ?? this.queue.peekAvail();
  }

  take(head: number): void {
    if (this.left[0] === head) {
      this.left.shift();
      return;
    }
    this.inflight.take(head);
    this.queue.take(head);
  }

  complete(head: number, writtenBytes: number): void {
    this.queue.complete(head, writtenBytes);
    this.inflight.complete(head);
    this.used = (this.used + 1) & 0xffff;
  }

  publish(): void {
    this.inflight.publishing();
    this.queue.publish();
    this.inflight.published(this.used);
  }
}

const trackedPackedQueue = (
  memory: GuestMemory,
  driver: FakePackedDriver,
  buffer: ArrayBuffer,
): TrackedQueue =>
  new PackedVirtqueue({
    memory,
    addresses: { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa },
    size: driver.size,
    // What a front-end says that knows no better than the last start.
    nextAvail: 0x8000_8000,
    eventIdx: driver.eventIdx,
    indirect: true,
    inflight: new PackedInflight({ buffer, offsetBytes: 0, entries: driver.size }),
  });

/** Guest memory and a device's mapping of it, with each view made once: a new one costs a whole garbage collection. */
class Stage {
  readonly ram = new GuestRam([{ gpa: 0, sizeBytes: 0x1_0000 }]);
  readonly device = new DeviceMemory(this.ram);
  readonly memory = this.device.memory;
  private readonly views = new Map<string, ArrayBuffer>();

  constructor() {
    const view = this.memory.view.bind(this.memory);
    this.memory.view = (gpa, lengthBytes) => {
      const key = `${gpa} ${lengthBytes}`;
      const known = this.views.get(key) ?? view(gpa, lengthBytes);
      this.views.set(key, known);
      return known;
    };
  }

  /** Is it a part of a ring? */
  holds(buffer: ArrayBufferLike): boolean {
    return [...this.views.values()].some((view) => view === buffer);
  }

  close(): void {
    this.device.close();
    this.ram.close();
  }
}

/** A driver, and devices that die and are replaced. */
class Scene {
  readonly record: ArrayBuffer;
  readonly driver: FakeDriver | FakePackedDriver;
  readonly expected = new Set<number>();
  /** Ids in the order in which the devices that died took them. */
  readonly taken: number[] = [];

  constructor(
    private readonly stage: Stage,
    layout: 'split' | 'packed',
    size: number,
  ) {
    const options = { size, eventIdx: false, descGpa: 0x1000, availGpa: 0x2000, usedGpa: 0x3000 };
    const { ram } = stage;
    this.driver = layout === 'split' ? new FakeDriver(ram, options) : new FakePackedDriver(ram, options);
    this.record = new ArrayBuffer(layout === 'split' ? splitInflightBytes(size) : packedInflightBytes(size));
  }

  device(): TrackedQueue {
    const { driver, record } = this;
    return driver instanceof FakeDriver
      ? new TrackedSplitQueue(this.stage.memory, driver, record)
      : trackedPackedQueue(this.stage.memory, driver, record);
  }

  /** Runs a new device until store `killAt`; false when it came to its end before. */
  dies(life: Life, killAt: number): boolean {
    const stores = new StoreByStore((buffer) => buffer === this.record || this.stage.holds(buffer));
    stores.killAt = killAt;
    return !stores.run(() => life(this, this.device()));
  }

  take(queue: TrackedQueue): number {
    const id = queue.peekAvail();
    if (id < 0) throw new Error('nothing to take');
    queue.take(id);
    this.taken.push(id);
    return id;
  }

  submit(segments: number, indirect = false): boolean {
    if (this.driver.freeDescriptors < (indirect ? 1 : segments)) return false;
    const pieces: Segment[] = Array.from({ length: segments }, (_, index) => ({
      gpa: 0x8000 + 512 * index,
      lengthBytes: 16 + index,
      writable: index > 0,
    }));
    this.expected.add(this.driver.submit(pieces, indirect ? { indirectAfter: 0 } : {}));
    return true;
  }

  /** Takes what the device published; the fake driver throws when an id is answered twice. */
  collect(): void {
    for (let used = this.driver.popUsed(); used; used = this.driver.popUsed()) {
      if (!this.expected.delete(used.head)) throw new Error(`id ${used.head} was not expected`);
      const at = this.taken.indexOf(used.head);
      if (at >= 0) this.taken.splice(at, 1);
    }
  }
}

/** Everything a device does in one life; deterministic, so that it can die at any store of it. */
type Life = (scene: Scene, queue: TrackedQueue) => void;

/** Two published batches behind it, then: one chain left in flight, one batch of three out of order, a new take. */
const busyLife: Life = (scene, queue) => {
  const take = (): number => scene.take(queue);
  const [a, , c, d] = [take(), take(), take(), take()] as const;
  queue.complete(c, 0);
  const e = take();
  queue.complete(a, 0);
  queue.complete(e, 0);
  queue.publish();
  queue.complete(d, 0);
  queue.publish();
};

/** All that the ring holds, in one batch: in a full packed ring it ends at the slot where it began. */
const wholeRingLife: Life = (scene, queue) => {
  const ids = Array.from({ length: 5 }, () => scene.take(queue));
  for (const id of ids.toReversed()) queue.complete(id, 0);
  queue.publish();
};

const serveAll = (scene: Scene, queue: TrackedQueue, random: () => number): void => {
  const inFlight: number[] = [];
  for (let id = queue.peekAvail(); id >= 0 || inFlight.length > 0; id = queue.peekAvail()) {
    if (id >= 0) {
      queue.take(id);
      inFlight.push(id);
    }
    if (id < 0 || random() < 0.5) {
      queue.complete(inFlight.splice(Math.floor(random() * inFlight.length), 1)[0]!, 0);
      if (random() < 0.5) queue.publish();
    }
    if (random() < 0.5) scene.collect();
  }
  queue.publish();
  scene.collect();
};

describe.each(['split', 'packed'] as const)('the in-flight record of a %s queue', (layout) => {
  let stage: Stage;
  beforeEach(() => {
    stage = new Stage();
  });
  afterEach(() => stage.close());

  const build = (size: number, lap: number): Scene => {
    const scene = new Scene(stage, layout, size);
    // Move the ring on, so that the batch that dies goes round its end.
    const devices = lap > 0 ? [scene.device()] : [];
    for (let step = 0; step < lap; step += 1) {
      scene.submit(1);
      scene.driver.publish();
      for (const first of devices) serveAll(scene, first, () => 0);
    }
    for (const [segments, indirect] of [[2], [1], [2, true], [1], [3]] as [number, boolean?][]) {
      if (!scene.submit(segments, indirect)) throw new Error('no room');
    }
    scene.driver.publish();
    return scene;
  };

  it.each([
    ['busy', 8, 0, busyLife],
    ['busy', 8, 5, busyLife],
    ['busy', layout === 'split' ? 16 : 9, 16, busyLife],
    ['whole-ring', 8, 0, wholeRingLife],
    ['whole-ring', 8, 3, wholeRingLife],
  ] as const)(
    'loses no request and answers none twice, whichever store is the last (%s life, size %i, %i before)',
    (_, size, lap, life) => {
      let deaths = 0;
      for (let killAt = 0; ; killAt += 1) {
        const scene = build(size, lap);
        const died = scene.dies(life, killAt);
        const random = seeded(killAt);
        // The driver reads what it was shown before or after the next device comes, and goes on.
        if (random() < 0.5) scene.collect();
        if (random() < 0.5) scene.submit(2);
        scene.driver.publish();
        const next = scene.device();
        serveAll(scene, next, random);
        expect([killAt, [...scene.expected]]).toEqual([killAt, []]);
        // And the ring is whole: it goes round twice more.
        for (let step = 0; step < 2 * size; step += 1) {
          scene.submit(1 + (step % 3));
          scene.driver.publish();
          serveAll(scene, next, random);
        }
        expect([killAt, scene.driver.inFlightCount]).toEqual([killAt, 0]);
        if (!died) break;
        deaths += 1;
      }
      expect(deaths).toBeGreaterThan(35);
    },
  );

  it('knows the lap, also where an earlier chain left flags of the lap before and the driver went on', () => {
    for (let round = 0; ; round += 1) {
      const killAt = round >> 1;
      const scene = new Scene(stage, layout, 8);
      const first = scene.device();
      for (const segments of [3, 1, 1, 1, 1]) {
        scene.submit(segments);
        scene.driver.publish();
        serveAll(scene, first, () => 0);
      }
      // Slots 7 and 0: a packed ring goes on at slot 1, the middle of its first chain.
      scene.submit(2);
      scene.driver.publish();
      const died = scene.dies((_, queue) => {
        queue.complete(scene.take(queue), 0);
        queue.publish();
      }, killAt);
      scene.collect();
      for (let slots = 0; slots < 8 * (round % 2); slots += 1) scene.submit(1);
      scene.driver.publish();
      const next = scene.device();
      serveAll(scene, next, () => 0);
      for (let step = 0; step < 8; step += 1) {
        scene.submit(1);
        scene.driver.publish();
        serveAll(scene, next, () => 0);
      }
      expect([round, [...scene.expected]]).toEqual([round, []]);
      if (!died && round % 2 === 1) break;
    }
  });

  it('resubmits in the order in which the chains were taken', () => {
    for (let killAt = 0; ; killAt += 1) {
      const scene = build(8, 5);
      const died = scene.dies(busyLife, killAt);
      scene.collect();
      const next = scene.device();
      const order: number[] = [];
      for (let id = next.peekAvail(); id >= 0; id = next.peekAvail()) {
        next.take(id);
        order.push(id);
      }
      expect([killAt, order.slice(0, scene.taken.length)]).toEqual([killAt, scene.taken]);
      if (!died) break;
    }
  });

  it('survives a second death in the middle of the recovery from the first', () => {
    for (let killAt = 0; ; killAt += 5) {
      let died = true;
      for (let again = 0; ; again += 3) {
        const scene = build(8, 13);
        died = scene.dies(busyLife, killAt);
        const diedAgain = scene.dies((_, queue) => serveAll(scene, queue, seeded(again)), again);
        serveAll(scene, scene.device(), seeded(killAt));
        expect([killAt, again, [...scene.expected]]).toEqual([killAt, again, []]);
        if (!diedAgain) break;
      }
      if (!died) break;
    }
  });
});
