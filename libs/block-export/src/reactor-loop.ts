import { IO_URING, native } from '@cairn/native';
import type { BlkRing } from './blk-ring.js';
import { IO_COMPLETION, RESERVED_SLOTS, type ShardHost } from './device-shard.js';
import { IoUring } from './io-uring.js';
import { RequestSlots } from './request-slots.js';
import { HISTOGRAM } from './shard-metrics.js';
import { ViewCache } from './view-cache.js';

// One thread, one io_uring, many virtqueues.
//
//   round: take chains of active rings → reap completions → publish used rings and call → submit, maybe wait
//
// A ring is active while it is busy: the loop looks at it and its driver need not kick. Before the thread sleeps every
// active ring is armed (its driver kicks again) and looked at once more, so that no chain can be missed; then none is
// active until a kick, a completion or a timer says so. An idle ring therefore costs nothing.

const QUEUE_ENTRIES = 1024;
const SLOTS = 1024;
const SOURCE_EVENT = 2;
const POLLIN = 1;
const POLLRDHUP = 0x2000;
const CLOCK_EVERY = 32;
const UNKICKED_POLL_MICROS = 1000;
const U31 = 0x7fffffff;

/** A descriptor that the loop watches; `onReady` is told each time something happened on it. */
interface Source {
  fd: number;
  onReady: () => void;
}

/** The event loop of a reactor thread. */
export class ReactorLoop implements ShardHost {
  readonly uring = new IoUring(QUEUE_ENTRIES);
  readonly slots = new RequestSlots(SLOTS);
  readonly views = new ViewCache();
  now = native.clockMicros();
  /** Called when a guest's memory vanished under us (SIGBUS); whoever has the sessions looks which. */
  onMemoryFault: () => void = () => undefined;
  private readonly sources = new Map<number, Source>();
  private readonly kickSources = new Map<BlkRing, number>();
  /** Rings whose front-end gave no kick descriptor, so that we must look (vhost-user spec, VHOST_USER_VRING_NOFD). */
  private readonly unkicked = new Set<BlkRing>();
  private readonly active: BlkRing[] = [];
  private readonly dirty: BlkRing[] = [];
  private readonly timers = new Map<BlkRing, number>();
  private timerAt = 0;
  private readonly faults = new Int32Array(native.guardFaults());
  private faultsSeen = 0;
  private lastSource = 0;
  private stopped = false;
  /** Did the last submission complete while it was submitted (page cache)? Then waiting for it is wasted. */
  private inline = true;

  /** `pollMicros`: how long the thread looks at its rings, without sleeping, after the last request. */
  constructor(private readonly pollMicros: number) {}

  /** Requests in slots: in the kernel, or about to be. */
  get inSlots(): number {
    return SLOTS - this.slots.available;
  }

  /** Runs until `stop`; blocks the thread. */
  run(): void {
    while (!this.stopped) this.round();
    this.uring.close();
    this.slots.close();
  }

  stop(): void {
    this.stopped = true;
  }

  /** Watches a descriptor until `unwatch`; the descriptor stays the caller's. */
  watch(fd: number, onReady: () => void): number {
    this.lastSource = (this.lastSource + 1) & U31;
    this.sources.set(this.lastSource, { fd, onReady });
    this.armSource(this.lastSource, fd);
    return this.lastSource;
  }

  unwatch(id: number): void {
    if (!this.sources.delete(id)) return;
    this.uring.prepare(IO_URING.op.POLL_REMOVE, -1, 0, 0, id, SOURCE_EVENT, 0, 0, 0, 0);
  }

  // ---- ShardHost ------------------------------------------------------------------------------------------------

  ringStarted(ring: BlkRing): void {
    this.watchKick(ring);
    this.activate(ring);
  }

  ringStopped(ring: BlkRing): void {
    this.publish(ring);
    dropFrom(this.dirty, ring);
    ring.dirty = false;
    dropFrom(this.active, ring);
    ring.active = false;
    this.timers.delete(ring);
    this.unwatchKick(ring);
  }

  kickChanged(ring: BlkRing): void {
    this.unwatchKick(ring);
    this.watchKick(ring);
    this.activate(ring);
  }

  activate(ring: BlkRing): void {
    if (ring.active || ring.broken || !ring.queue) return;
    ring.active = true;
    ring.lookedAt = this.now;
    ring.queue.disarmKick();
    this.active.push(ring);
  }

  markDirty(ring: BlkRing): void {
    if (!ring.dirty) {
      ring.dirty = true;
      ring.dirtyAt = this.now;
      this.dirty.push(ring);
    }
  }

  wakeLater(ring: BlkRing, micros: number): void {
    const at = (this.now + micros) | 0;
    if (this.timers.size === 0 || ((at - this.timerAt) | 0) < 0) this.timerAt = at;
    this.timers.set(ring, at);
  }

  // ---- the round ------------------------------------------------------------------------------------------------

  private readonly onCompletion = (low: number, high: number, result: number, flags: number): void => {
    if (high === IO_COMPLETION) {
      const ring = this.slots.ring[low];
      this.slots.shard[low]!.completed(low, result);
      if (ring && !ring.active && !ring.stopping) this.activate(ring);
    } else if (high === SOURCE_EVENT) {
      this.sourceReady(low, flags);
    }
  };

  /** One round; what `run` does until it is stopped. Sleeps when there is nothing to do. */
  round(): void {
    const { uring } = this;
    this.now = native.clockMicros();
    if (this.timers.size > 0) this.runTimers();
    let taken = 0;
    const { active } = this;
    for (let index = 0; index < active.length; index += 1) {
      const ring = active[index]!;
      taken += ring.shard.poll(ring);
    }
    const reaped = uring.reap(this.onCompletion);
    if (this.dirty.length > 0) this.publishAll();
    if (this.faults[0] !== this.faultsSeen) {
      this.faultsSeen = this.faults[0]!;
      this.onMemoryFault();
    }
    if (uring.pending > 0) this.submit();
    else if (taken === 0 && reaped === 0 && !this.stopped) this.idle();
  }

  /** Submits; where completions do not come at once, the same call also waits for the first. */
  private submit(): void {
    const { uring } = this;
    this.slots.submitted(native.clockMicros());
    if (this.inline) {
      uring.enter(0, 0);
      this.inline = uring.hasCompletions();
      return;
    }
    const count = uring.pending;
    if (this.arm()) this.sleep();
    else uring.enter(0, 0);
    this.inline = count > 1 && uring.completionCount() >= count;
  }

  /** Nothing to do: looks on for a while when nothing is in flight, then sleeps. */
  private idle(): void {
    if (this.inSlots === 0 && this.active.length > 0 && this.pollMicros > 0 && this.spin()) return;
    if (this.arm()) this.sleep();
  }

  /** True as soon as there is something to do; false when the time is up. */
  private spin(): boolean {
    const { active, uring } = this;
    const start = native.clockMicros();
    for (let turn = 1; ; turn += 1) {
      for (let index = 0; index < active.length; index += 1) {
        const ring = active[index]!;
        if (!ring.held && ring.queue!.hasAvail()) return true;
      }
      if (uring.hasCompletions()) return true;
      if (turn % CLOCK_EVERY === 0 && ((native.clockMicros() - start) | 0) >= this.pollMicros) return false;
    }
  }

  /**
   * Asks for kicks on every active ring; true when the thread may sleep. A ring whose chains cannot be taken now (no
   * slot free, its device must be alone, its volume's limit) does not keep it awake: what ends that wakes it, too.
   */
  private arm(): boolean {
    const { active } = this;
    const starved = this.slots.available <= RESERVED_SLOTS;
    for (let index = 0; index < active.length; index += 1) {
      const ring = active[index]!;
      if (ring.broken || ring.stopping || ring.queue!.armKick()) continue;
      if (!ring.held && !starved) return false;
    }
    // Starved rings stay active: their drivers have kicked already and will not do so again.
    if (starved) return true;
    for (let index = 0; index < active.length; index += 1) active[index]!.active = false;
    empty(active);
    for (const ring of this.unkicked) this.activate(ring);
    return true;
  }

  /** Sleeps until something happens, a timer is due, or rings without a kick descriptor must be looked at again. */
  private sleep(): void {
    let micros = this.unkicked.size > 0 ? UNKICKED_POLL_MICROS : 0;
    if (this.timers.size > 0) {
      const left = Math.max(1, (this.timerAt - native.clockMicros()) | 0);
      micros = micros === 0 ? left : Math.min(micros, left);
    }
    this.uring.enter(1, micros);
  }

  private runTimers(): void {
    if (((this.timerAt - this.now) | 0) > 0) return;
    let next = 0;
    let any = false;
    for (const [ring, at] of this.timers) {
      if (((at - this.now) | 0) <= 0) {
        this.timers.delete(ring);
        ring.throttled = false;
        this.activate(ring);
      } else if (!any || ((at - next) | 0) < 0) {
        any = true;
        next = at;
      }
    }
    this.timerAt = next;
  }

  private publishAll(): void {
    const { dirty } = this;
    for (let index = 0; index < dirty.length; index += 1) {
      const ring = dirty[index]!;
      ring.dirty = false;
      this.publish(ring);
      ring.shard.metrics.observe(HISTOGRAM.complete, (this.now - ring.dirtyAt) | 0);
    }
    empty(dirty);
  }

  private publish(ring: BlkRing): void {
    const { queue, shard } = ring;
    if (!queue) return;
    ring.log?.publishing();
    const called = queue.publish();
    if (called) ring.signal('callFd');
    shard.metrics.add(called ? 'calls' : 'callsSuppressed', 1);
  }

  // ---- sources --------------------------------------------------------------------------------------------------

  private sourceReady(id: number, flags: number): void {
    const source = this.sources.get(id);
    if (!source) return;
    if ((flags & IO_URING.cqe.MORE) === 0) this.armSource(id, source.fd);
    source.onReady();
  }

  private armSource(id: number, fd: number): void {
    const events = POLLIN | POLLRDHUP;
    this.uring.prepare(
      IO_URING.op.POLL_ADD,
      fd,
      0,
      0,
      0,
      0,
      IO_URING.poll.ADD_MULTI,
      events,
      id,
      SOURCE_EVENT,
    );
  }

  private watchKick(ring: BlkRing): void {
    const { kickFd } = ring.fds;
    if (kickFd === undefined) {
      this.unkicked.add(ring);
      return;
    }
    const kicked = (): void => {
      ring.shard.metrics.add('kicks', 1);
      this.activate(ring);
    };
    this.kickSources.set(ring, this.watch(kickFd, kicked));
  }

  private unwatchKick(ring: BlkRing): void {
    this.unkicked.delete(ring);
    const source = this.kickSources.get(ring);
    if (source === undefined) return;
    this.kickSources.delete(ring);
    this.unwatch(source);
  }
}

const dropFrom = (list: BlkRing[], ring: BlkRing): void => {
  const index = list.indexOf(ring);
  if (index >= 0) list.splice(index, 1);
};

/** Takes everything out and keeps the room: after `length = 0` the next push would allocate it anew, in every round. */
const empty = (list: BlkRing[]): void => {
  while (list.length > 0) list.pop();
};
