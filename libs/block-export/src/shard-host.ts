import type { BlkRing } from './blk-ring.js';
import type { DeviceShared } from './device-shared.js';
import type { RequestErrorName } from './failure-names.js';
import type { IoUring } from './io-uring.js';
import type { RateLimiter } from './rate-limiter.js';
import type { RequestSlots } from './request-slots.js';
import type { ShardPauses } from './shard-pauses.js';
import type { ShardMetrics } from './shard-metrics.js';
import type { ViewCache } from './view-cache.js';
import type { VolumeFile } from './volume-file.js';

/** High word of user_data for a slot's completion; the low word is the slot. */
export const IO_COMPLETION = 1;

/** Slots that guests' requests leave free, for flushes of our own. */
export const RESERVED_SLOTS = 8;

/** What a shard needs of the loop that runs it. */
export interface ShardHost {
  readonly uring: IoUring;
  readonly slots: RequestSlots;
  readonly views: ViewCache;
  /** Microseconds, wrapped to int32: when this stage of the round began. */
  readonly now: number;
  /** Slots that one volume may hold while other volumes are busy on this thread, too. */
  readonly slotShare: number;
  ringStarted(ring: BlkRing): void;
  /** Publishes what is completed and forgets the ring. */
  ringStopped(ring: BlkRing): void;
  /** The ring is not looked at any more until it is set up anew. */
  ringBroken(ring: BlkRing): void;
  kickChanged(ring: BlkRing): void;
  /** Polls the ring from the next round on. */
  activate(ring: BlkRing): void;
  /** Publishes the ring's completions at the end of the round. */
  markDirty(ring: BlkRing): void;
  /** Runs `start` as soon as a slot is free: now, or when a request has ended. */
  withSlot(start: () => void): void;
  /** Runs `work` in the next round; the thread does not sleep before. */
  soon(work: () => void): void;
  /** Polls the ring again in so many microseconds. */
  wakeLater(ring: BlkRing, micros: number): void;
}

/** What a kind of request that takes several steps needs of its shard. */
export interface ShardPort {
  readonly host: ShardHost;
  readonly file: VolumeFile;
  readonly shared: DeviceShared;
  readonly metrics: ShardMetrics;
  readonly pauses: ShardPauses;
  /** Requests of this shard that are in the kernel. */
  readonly inKernel: number;
  /** Takes a slot for a part of a request; ask for room before. */
  takeSlot(): number;
  releaseSlot(slot: number): void;
  /** Is the slot in use by a request of this shard? */
  owns(slot: number): boolean;
  /** Gives what is left of a transfer to the kernel, as far as one entry goes. */
  submit(slot: number): void;
  /** Prepares one entry for `slot` and the file that it names; its completion comes back to the shard. */
  submitEntry(
    slot: number,
    op: number,
    offsetBytes: number,
    addressLow: number,
    addressHigh: number,
    length: number,
    opFlags: number,
  ): void;
  submitFlush(slot: number): void;
  /** Flags of a write that is prepared now, which makes it durable when it must be. */
  writeFlags(slot: number): number;
  /** Ends a write that is in the file: at once, or after a flush when it must be durable and is not yet. */
  written(slot: number): void;
  finish(slot: number, status: number): void;
  /** Completes with IOERR, counted under `name`. */
  fault(slot: number, name: RequestErrorName): void;
}

/** What a shard is made of. */
export interface ShardOptions {
  file: VolumeFile;
  readOnly: boolean;
  serial: string;
  shared: DeviceShared;
  limiter: RateLimiter;
  metrics: ShardMetrics;
}
