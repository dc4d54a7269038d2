import { BlkRequest, type GuestMemory, SplitVirtqueue, VirtqueueError } from '@cairn/virtio';
import type { RingStart, Vring } from '@cairn/vhost-user';
import type { BlkDevice } from './blk-device.js';

/** One running virtqueue of a block device. */
export class BlkRing {
  readonly vring: Vring;
  readonly memory: GuestMemory;
  readonly request: BlkRequest;
  /** Undefined when the driver laid it out wrongly; then it does nothing until it is set up anew. */
  readonly queue: SplitVirtqueue | undefined;
  /** Why the ring is stopped: the driver broke it. */
  broken: VirtqueueError | undefined;
  /** Polled in each round; else the driver kicks. */
  active = false;
  /** Has completions that are not published. */
  dirty = false;
  /** Takes no more requests: it is about to stop. */
  stopping = false;
  /** Called with the next avail index when nothing is in flight any more. */
  readonly waiters: ((nextAvail: number) => void)[] = [];
  private readonly endView: (view: ArrayBuffer) => void;

  constructor(
    readonly device: BlkDevice,
    start: RingStart,
    features: { eventIdx: boolean; indirect: boolean },
  ) {
    this.vring = start.vring;
    this.memory = start.memory;
    this.endView = start.endView;
    this.request = new BlkRequest(start.memory);
    try {
      this.queue = new SplitVirtqueue({
        memory: start.memory,
        addresses: start.addresses,
        size: start.vring.size,
        nextAvail: start.vring.nextAvail,
        ...features,
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
    return this.queue?.nextAvail ?? this.vring.nextAvail;
  }

  /** Ends the views over guest memory; the queue is dead afterwards. */
  release(): void {
    for (const view of this.queue?.buffers ?? []) this.endView(view);
  }
}
