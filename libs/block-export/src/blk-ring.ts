import {
  BlkRequest,
  type GuestMemory,
  makeVirtqueue,
  virtqueueBytes,
  type Virtqueue,
  VirtqueueError,
} from '@cairn/virtio';
import type { RingFds, RingStart } from '@cairn/vhost-user';
import { native } from '@cairn/native';
import type { DeviceShard } from './device-shard.js';
import { DirtyLog, type LoggedPart } from './dirty-log.js';
import { RateTurn } from './rate-limiter.js';
import type { ViewCache } from './view-cache.js';

const EINTR = 4;

/** What driver and device have agreed on about rings. */
export interface RingFeatures {
  eventIdx: boolean;
  indirect: boolean;
  packed: boolean;
}

/** What a publication writes: the used ring, under its log address; a packed ring has its used descriptors elsewhere. */
const usedParts = ({ size, addresses, log }: RingStart, features: RingFeatures): LoggedPart[] => {
  if (log?.usedGpa === undefined) return [];
  const bytes = virtqueueBytes(size, features);
  const used = { gpa: log.usedGpa, lengthBytes: bytes.used };
  return features.packed ? [used, { gpa: addresses.descriptors, lengthBytes: bytes.descriptors }] : [used];
};

/** One running virtqueue of a block device, on the reactor thread that serves it. */
export class BlkRing {
  readonly index: number;
  readonly memory: GuestMemory;
  readonly request: BlkRequest;
  /** Undefined when the driver laid it out wrongly; then it does nothing until it is set up anew. */
  readonly queue: Virtqueue | undefined;
  readonly log: DirtyLog | undefined;
  fds: RingFds;
  /** Why the ring is stopped: the driver broke it. */
  broken: VirtqueueError | undefined;
  /** Polled in each round; else the driver kicks. */
  active = false;
  /** Stays active while the thread sleeps. */
  keep = false;
  /** Has completions that are not published, the first of them since `dirtyAt`. */
  dirty = false;
  dirtyAt = 0;
  /** When it was looked at last, or when its driver kicked. */
  lookedAt = 0;
  /** Bytes it may still take in this round; see QUANTUM_BYTES. */
  deficit = 0;
  /** The volume's rate limit holds it back; a timer wakes it. */
  throttled = false;
  /** Has it looked at again, whatever held it back. */
  readonly wake = (): void => {
    this.throttled = false;
    this.shard.host.activate(this);
  };
  readonly turn = new RateTurn();
  /** Takes no more requests: it is about to stop. */
  stopping = false;
  /** Called with the next avail index when nothing is in flight any more. */
  readonly waiters: ((nextAvail: number) => void)[] = [];
  private readonly inflight: ArrayBuffer | undefined;
  private ringViews: readonly ArrayBuffer[] = [];

  constructor(
    readonly shard: DeviceShard,
    private readonly start: RingStart,
    features: RingFeatures,
    private readonly cache: ViewCache,
  ) {
    this.index = start.index;
    this.fds = start.fds;
    this.memory = cache.acquire(start.layout).memory;
    this.request = new BlkRequest(this.memory);
    if (start.inflight) this.inflight = native.view(start.inflight.address, start.inflight.sizeBytes);
    if (start.log) {
      this.log = new DirtyLog(start.log, start.layout.baseAddress, usedParts(start, features));
    }
    try {
      this.queue = makeVirtqueue({
        memory: this.memory,
        addresses: start.addresses,
        size: start.size,
        nextAvail: start.nextAvail,
        ...features,
        onViews: (views) => {
          this.ringViews = views;
        },
        ...(this.inflight && { inflight: { buffer: this.inflight, entries: start.inflight!.entries } }),
      });
    } catch (error) {
      if (!(error instanceof VirtqueueError)) throw error;
      this.broken = error;
    }
  }

  get inFlight(): number {
    return this.queue?.inFlightCount ?? 0;
  }

  /** The avail index to go on from, for GET_VRING_BASE. */
  get nextAvail(): number {
    return this.queue?.nextAvail ?? this.start.nextAvail;
  }

  /** Has it yet to take what an earlier process had in flight? It cannot be stopped before. */
  get resuming(): boolean {
    return this.broken === undefined && this.queue?.resuming === true;
  }

  /** May its chains not be taken now, whatever the driver does? */
  get held(): boolean {
    return this.broken !== undefined || this.stopping || this.throttled || this.shard.paused;
  }

  /**
   * Signals the driver or front-end. Whoever made its eventfd block goes without signals from now on: the next one
   * would hold the thread again.
   */
  signal(which: 'callFd' | 'errFd'): void {
    const fd = this.fds[which];
    if (fd !== undefined && native.signalForeign(fd) === -EINTR)
      this.fds = { ...this.fds, [which]: undefined };
  }

  /** Ends every view; the queue is dead afterwards. */
  release(): void {
    const views = this.cache.acquire(this.start.layout);
    for (const view of this.ringViews) views.end(view);
    this.cache.release(this.start.layout);
    this.cache.release(this.start.layout);
    if (this.inflight) native.detach(this.inflight);
    this.log?.close();
  }
}
