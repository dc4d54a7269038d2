import { native } from '@cairn/native';
import type { BlkRing } from './blk-ring.js';
import { IoUring } from './io-uring.js';
import { REACTOR_COUNTER, type ReactorMetrics } from './reactor-metrics.js';
import { RequestSlots } from './request-slots.js';
import { IO_COMPLETION, type ShardHost } from './shard-host.js';
import { COUNTER, HISTOGRAM } from './shard-metrics.js';
import { SOURCE_EVENT, Sources } from './sources.js';
import { Timers } from './timers.js';
import { ViewCache } from './view-cache.js';

// One thread, one io_uring, many virtqueues.
//
//   round: take chains of active rings → submit → reap completions → publish used rings and call → maybe wait
//
// Where completions do not come while they are submitted, what is submitted waits for the end of the round, to wait for
// the first of them in the same call.
//
// A ring is active while it is busy: the loop looks at it and its driver need not kick. Before the thread sleeps every
// active ring is armed (its driver kicks again) and looked at once more, so that no chain can be missed; then none is
// active until a kick, a completion or a timer says so. An idle ring therefore costs nothing.

const QUEUE_ENTRIES = 1024;
const SLOTS = 1024;
/** While it spins it looks at the kernel and at the clock in every so many turns. */
const KERNEL_EVERY = 4;
const CLOCK_EVERY = 32;
const LOOK_EVERY = 16;
const UNKICKED_POLL_MICROS = 1000;
const MIN_SLOT_SHARE = 16;
/** Looking on for less than this is not worth its clock readings. */
const MIN_SPIN_MICROS = 4;

/** The event loop of a reactor thread. */
export class ReactorLoop implements ShardHost {
  readonly uring = new IoUring(QUEUE_ENTRIES);
  readonly slots = new RequestSlots(SLOTS);
  readonly views = new ViewCache();
  /** The clock when this round's work came up, in microseconds, wrapped. */
  now = native.clockMicros();
  /** Called when a guest's memory vanished under us (SIGBUS); whoever has the sessions looks which. */
  onMemoryFault: () => void = () => undefined;
  /** Tells the operator of something; told rarely. */
  onNotice: (notice: string) => void = () => undefined;
  private readonly sources = new Sources(this.uring);
  private readonly kickSources = new Map<BlkRing, number>();
  /** Rings whose front-end gave no kick descriptor, so that we must look (vhost-user spec, VHOST_USER_VRING_NOFD). */
  private readonly unkicked = new Set<BlkRing>();
  private readonly active: BlkRing[] = [];
  private readonly dirty: BlkRing[] = [];
  /** Volumes with active rings. */
  private activeShards = 0;
  private readonly slotWaiters: (() => void)[] = [];
  private chores: (() => void)[] = [];
  private readonly timers = new Timers();
  private readonly faults = new Int32Array(native.guardFaults());
  private faultsSeen = 0;
  private stopped = false;
  /** Is `now` as good as a new reading? */
  private nowIsFresh = false;
  /** Did the last submission complete while it was submitted (page cache)? Then waiting for it is wasted. */
  private inline = true;
  private waits = 0;

  /** How long it looks on now; see `adapt`. */
  private spinMicros: number;

  /** `pollMicros`: how long the thread looks at its rings, without sleeping, after the last request, at most. */
  constructor(
    private readonly pollMicros: number,
    private readonly metrics: ReactorMetrics,
  ) {
    this.spinMicros = pollMicros;
  }

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
    return this.sources.watch(fd, onReady);
  }

  unwatch(id: number): void {
    this.sources.unwatch(id);
  }

  /** Calls `callback` once, in so many microseconds (1 to 2^31 - 1); asked again before, then later or earlier instead. */
  later(callback: () => void, micros: number): void {
    this.timers.set(callback, (native.clockMicros() + micros) | 0);
  }

  /** Counts one; see REACTOR_COUNTER. */
  count(counter: number): void {
    this.metrics.count(counter);
  }

  /** Forgets what `later` was asked for. */
  cancelLater(callback: () => void): void {
    this.timers.delete(callback);
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
    if (ring.active) {
      dropFrom(this.active, ring);
      this.deactivated(ring);
    }
    this.timers.delete(ring.wake);
    this.unwatchKick(ring);
  }

  ringBroken(ring: BlkRing): void {
    // Nobody looks at it again; without this, one without a kick descriptor would keep the thread awake.
    this.unkicked.delete(ring);
  }

  kickChanged(ring: BlkRing): void {
    this.unwatchKick(ring);
    this.watchKick(ring);
    this.activate(ring);
  }

  activate(ring: BlkRing): void {
    if (ring.active || ring.broken || !ring.queue) return;
    ring.active = true;
    ring.shard.activeRings += 1;
    if (ring.shard.activeRings === 1) this.activeShards += 1;
    ring.lookedAt = this.now;
    ring.queue.disarmKick();
    this.active.push(ring);
  }

  get slotShare(): number {
    return this.activeShards <= 1 ? SLOTS : Math.max(MIN_SLOT_SHARE, Math.floor(SLOTS / this.activeShards));
  }

  withSlot(start: () => void): void {
    if (this.slots.available > 0) start();
    else this.slotWaiters.push(start);
  }

  soon(work: () => void): void {
    this.chores.push(work);
  }

  markDirty(ring: BlkRing): void {
    if (!ring.dirty) {
      ring.dirty = true;
      ring.dirtyAt = this.now;
      this.dirty.push(ring);
    }
  }

  wakeLater(ring: BlkRing, micros: number): void {
    this.timers.set(ring.wake, (this.now + micros) | 0);
  }

  // ---- the round ------------------------------------------------------------------------------------------------

  private readonly onCompletion = (low: number, high: number, result: number, flags: number): void => {
    if (high === IO_COMPLETION) {
      const ring = this.slots.ring[low];
      this.slots.shard[low]!.completed(low, result);
      if (ring && !ring.active && !ring.stopping) this.activate(ring);
    } else if (high === SOURCE_EVENT) {
      this.sources.ready(low, flags);
      this.nowIsFresh = false;
    }
  };

  /** One round; what `run` does until it is stopped. Sleeps when there is nothing to do. */
  round(): void {
    const { uring } = this;
    if (!this.nowIsFresh) this.now = native.clockMicros();
    this.nowIsFresh = false;
    if (this.timers.size > 0) this.timers.run(this.now);
    let taken = 0;
    const { active } = this;
    for (let index = 0; index < active.length; index += 1) {
      const ring = active[index]!;
      taken += ring.shard.poll(ring);
    }
    if (this.inline && uring.pending > 0) {
      if (this.enter(0, 0) > 0) this.inline = uring.completionCount() > 0;
    }
    const reaped = uring.reap(this.onCompletion);
    if (this.chores.length > 0) this.runChores();
    while (this.slotWaiters.length > 0 && this.slots.available > 0) this.slotWaiters.shift()!();
    if (this.dirty.length > 0) this.publishAll();
    if (this.faults[0] !== this.faultsSeen) {
      this.faultsSeen = this.faults[0]!;
      this.onMemoryFault();
    }
    if (uring.pending === 0) {
      if (taken === 0 && reaped === 0 && !this.stopped && this.chores.length === 0) this.idle();
    } else if (!this.inline) {
      this.submit();
    }
  }

  /** Submits, and waits for `minComplete` completions; returns how many requests of guests it has submitted. */
  private enter(minComplete: number, timeoutMicros: number): number {
    const { uring } = this;
    uring.enter(minComplete, timeoutMicros);
    this.now = uring.leftAt;
    this.nowIsFresh = true;
    return this.slots.submitted(uring.enteredAt);
  }

  /**
   * Submits, and waits for the first completion in the same call. Had others come with it, the next submission does not
   * wait; neither does one in LOOK_EVERY, as of a single request this call cannot tell whether it took any time.
   */
  private submit(): void {
    const asleep = this.chores.length === 0 && this.arm();
    const count = asleep ? this.sleep() : this.enter(0, 0);
    if (count === 0) return;
    this.waits += 1;
    this.inline = (count > 1 && this.uring.completionCount() >= count) || this.waits % LOOK_EVERY === 0;
  }

  /** Nothing to do: looks on for a while when nothing is in flight, then sleeps. */
  private idle(): void {
    const quiet = this.inSlots === 0;
    if (quiet && this.active.length > 0 && this.spinMicros > 0) {
      const met = this.spin();
      this.metrics.count(met ? REACTOR_COUNTER.pollsMet : REACTOR_COUNTER.pollsInVain);
      if (met) return;
    }
    if (!this.arm()) return;
    this.sleep();
    if (quiet) this.adapt((this.uring.leftAt - this.uring.enteredAt) | 0);
  }

  /**
   * Looks on for longer next time when looking on for `pollMicros` would have met what ended this sleep, for half as
   * long when it would have been in vain: a driver that is about to come back is met awake, one that comes back every
   * millisecond does not cost the time in between.
   */
  private adapt(sleptMicros: number): void {
    if (sleptMicros <= this.pollMicros) {
      this.spinMicros = Math.min(this.pollMicros, Math.max(MIN_SPIN_MICROS, this.spinMicros * 2));
    } else {
      this.spinMicros = this.spinMicros < 2 * MIN_SPIN_MICROS ? 0 : this.spinMicros >> 1;
    }
  }

  /** True as soon as there is something to do; false when the time is up. */
  private spin(): boolean {
    const { active, uring } = this;
    const start = this.now;
    for (let turn = 1; ; turn += 1) {
      for (let index = 0; index < active.length; index += 1) {
        const ring = active[index]!;
        if (!ring.held && ring.queue!.hasAvail()) return true;
      }
      if (turn % KERNEL_EVERY === 0 && uring.hasCompletions()) return true;
      if (turn % CLOCK_EVERY === 0 && ((native.clockMicros() - start) | 0) >= this.spinMicros) return false;
    }
  }

  /**
   * Asks for kicks on every active ring; true when the thread may sleep. A ring whose chains cannot be taken now (its
   * device must be alone, its volume's limit) does not keep it awake: what ends that wakes it, too. One that has used
   * up its slots stays active, as its driver has kicked already: a completion wakes the thread.
   */
  private arm(): boolean {
    const { active } = this;
    let kept = 0;
    for (let index = 0; index < active.length; index += 1) {
      const ring = active[index]!;
      ring.keep = false;
      if (ring.broken || ring.stopping || ring.queue!.armKick() || ring.held) continue;
      if (ring.shard.hasRoom) return false;
      ring.keep = true;
      kept += 1;
    }
    let at = 0;
    for (let index = 0; index < active.length; index += 1) {
      const ring = active[index]!;
      if (kept > 0 && ring.keep) active[at++] = ring;
      else this.deactivated(ring);
    }
    while (active.length > at) active.pop();
    for (const ring of this.unkicked) this.activate(ring);
    return true;
  }

  private deactivated(ring: BlkRing): void {
    ring.active = false;
    ring.shard.activeRings -= 1;
    if (ring.shard.activeRings === 0) this.activeShards -= 1;
  }

  /** Sleeps until something happens, a timer is due, or rings without a kick descriptor must be looked at again. */
  private sleep(): number {
    let micros = this.unkicked.size > 0 ? UNKICKED_POLL_MICROS : 0;
    if (this.timers.size > 0) {
      const left = this.timers.microsLeft(native.clockMicros());
      micros = micros === 0 ? left : Math.min(micros, left);
    }
    this.metrics.count(REACTOR_COUNTER.sleeps);
    return this.enter(1, micros);
  }

  private runChores(): void {
    const { chores } = this;
    this.chores = [];
    for (const work of chores) work();
    this.nowIsFresh = false;
  }

  private publishAll(): void {
    const { dirty } = this;
    for (let index = 0; index < dirty.length; index += 1) {
      const ring = dirty[index]!;
      ring.dirty = false;
      this.publish(ring);
    }
    this.now = native.clockMicros();
    this.nowIsFresh = true;
    for (let index = 0; index < dirty.length; index += 1) {
      const ring = dirty[index]!;
      ring.shard.metrics.observe(HISTOGRAM.complete, (this.now - ring.dirtyAt) | 0);
    }
    empty(dirty);
  }

  private publish(ring: BlkRing): void {
    const { queue, shard } = ring;
    if (!queue) return;
    const called = queue.publish();
    ring.log?.published();
    if (called) ring.signal('callFd');
    shard.metrics.add(called ? COUNTER.calls : COUNTER.callsSuppressed, 1);
  }

  // ---- kicks ----------------------------------------------------------------------------------------------------

  private watchKick(ring: BlkRing): void {
    const { kickFd } = ring.fds;
    if (kickFd === undefined) {
      this.unkicked.add(ring);
      return;
    }
    const kicked = (): void => {
      ring.shard.metrics.add(COUNTER.kicks, 1);
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
