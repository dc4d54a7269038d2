import { DescriptorChain } from './descriptor-chain.js';
import type { GuestMemory } from './guest-memory.js';
import { type RingAddresses, RingMemory } from './ring-memory.js';
import type { SplitInflight } from './split-inflight.js';
import { VirtqueueError } from './virtqueue-error.js';

// The device's side of a split virtqueue (virtio 1.2 §2.7).
//
//   driver: avail ring ──peek──▶ chain ──take──▶ in flight ──complete──▶ used ring ──publish──▶ driver
//
// A head that is in flight is never taken again; what was taken is completed exactly once.

const U16 = 0xffff;

/** What a virtqueue needs to know to start. */
export interface SplitVirtqueueConfig {
  memory: GuestMemory;
  addresses: RingAddresses;
  size: number;
  /** The avail index to go on from: what an earlier device's `nextAvail` was, else 0. */
  nextAvail: number;
  eventIdx: boolean;
  indirect: boolean;
  /** Record of what is in flight; when it has a past, it says where to go on, not `nextAvail`. */
  inflight?: SplitInflight;
  /**
   * Told of the views over guest memory as soon as they exist, before the constructor may throw. They must be detached
   * before that memory is unmapped, after which the queue is dead.
   */
  onViews?: (views: readonly ArrayBuffer[]) => void;
}

/** Device side of one split virtqueue. Throws VirtqueueError when the driver breaks the ring. */
export class SplitVirtqueue {
  readonly size: number;
  /** Descriptor chain of the head that `peekAvail` returned last. */
  readonly chain: DescriptorChain;
  inFlightCount = 0;
  private readonly ring: RingMemory;
  private readonly inFlight: Uint8Array;
  private readonly record: SplitInflight | undefined;
  private readonly eventIdx: boolean;
  private nextAvailIdx: number;
  /** The avail index when it was read last: chains before it may be taken. */
  private seenAvailIdx: number;
  private nextUsed: number;
  private published: number;
  /** Heads that an earlier process took and did not answer, to be taken before any other. */
  private resumed: Uint16Array | undefined;
  private resumedAt = 0;

  constructor(config: SplitVirtqueueConfig) {
    this.size = config.size;
    this.ring = new RingMemory(config.memory, config.addresses, config.size);
    config.onViews?.(this.ring.buffers);
    this.chain = new DescriptorChain(config.memory, this.ring.descriptors, config.size, {
      indirect: config.indirect,
    });
    this.inFlight = new Uint8Array(config.size);
    this.eventIdx = config.eventIdx;
    this.nextAvailIdx = config.nextAvail & U16;
    this.nextUsed = this.ring.usedIdx();
    this.published = this.nextUsed;
    this.record = config.inflight;
    const left = config.inflight?.resume(config.size, this.nextUsed);
    if (left) {
      this.nextAvailIdx = left.nextAvail;
      if (left.heads.length > 0) this.resumed = left.heads;
    } else {
      // A front-end that lost its connection names the used index of that moment; what was in flight then has been
      // answered since. Where nothing is in flight, all that was taken is in the used ring.
      const answered = (this.nextUsed - this.nextAvailIdx) & U16;
      if (answered <= config.size) this.nextAvailIdx = this.nextUsed;
    }
    this.seenAvailIdx = this.nextAvailIdx;
  }

  /** Index of the next avail entry to take: what a later device starts from. */
  get nextAvail(): number {
    return this.nextAvailIdx;
  }

  /** Are there chains of an earlier process that were not taken yet? `nextAvail` is behind them already. */
  get resuming(): boolean {
    return this.resumed !== undefined;
  }

  /** Has the driver published a chain that was not taken? */
  hasAvail(): boolean {
    return this.resumed !== undefined || this.ring.availIdx() !== this.nextAvailIdx;
  }

  /**
   * Head of the next available chain, whose descriptors are in `chain`; -1 when the driver published none.
   *
   * It stays available until `take`: a caller that has no room for it now may simply come again.
   */
  peekAvail(): number {
    if (this.resumed !== undefined) return this.peekResumed(this.resumed[this.resumedAt]!);
    if (this.seenAvailIdx === this.nextAvailIdx && !this.lookAgain()) return -1;
    const head = this.ring.availEntry(this.nextAvailIdx & (this.size - 1));
    if (head >= this.size) throw new VirtqueueError('head-out-of-range', { head, size: this.size });
    if (this.inFlight[head] !== 0) throw new VirtqueueError('head-in-flight', { head });
    this.chain.walk(head);
    return head;
  }

  /** Takes the chain that `peekAvail` showed: it is in flight until `complete`. */
  take(head: number): void {
    this.inFlight[head] = 1;
    this.inFlightCount += 1;
    if (this.resumed !== undefined) {
      this.resumedAt += 1;
      if (this.resumedAt === this.resumed.length) this.resumed = undefined;
      return;
    }
    this.nextAvailIdx = (this.nextAvailIdx + 1) & U16;
    this.record?.take(head);
  }

  /** Gives a chain back with the number of bytes written to it; the driver sees it after `publish`. */
  complete(head: number, writtenBytes: number): void {
    this.ring.writeUsed(this.nextUsed & (this.size - 1), head, writtenBytes);
    this.nextUsed = (this.nextUsed + 1) & U16;
    this.record?.complete(head);
    this.inFlight[head] = 0;
    this.inFlightCount -= 1;
  }

  /** Publishes completed chains; true when the driver wants a call for them (virtio 1.2 §2.7.7.2, §2.7.10). */
  publish(): boolean {
    const before = this.published;
    if (before === this.nextUsed) return false;
    this.published = this.nextUsed;
    this.record?.publishing();
    this.ring.publishUsed(this.nextUsed);
    this.record?.published(this.nextUsed);
    if (!this.eventIdx) return this.ring.interruptsWanted();
    return ((this.nextUsed - this.ring.usedEvent() - 1) & U16) < ((this.nextUsed - before) & U16);
  }

  /** Asks the driver to kick for its next chain; false when one is there already, so that the caller goes on. */
  armKick(): boolean {
    if (this.eventIdx) this.ring.setAvailEvent(this.nextAvailIdx);
    else this.ring.setNoNotify(false);
    return !this.hasAvail();
  }

  /** Asks the driver for no kicks: we look by ourselves. With EVENT_IDX it holds for 65,535 chains. */
  disarmKick(): void {
    if (this.eventIdx) this.ring.setAvailEvent(this.nextAvailIdx - 1);
    else this.ring.setNoNotify(true);
  }

  /** Reads avail.idx, which the driver's core may just have written, anew: once for all the chains that it shows. */
  private lookAgain(): boolean {
    const seen = this.ring.availIdx();
    const pending = (seen - this.nextAvailIdx) & U16;
    // virtio 1.2 §2.7.6: idx only grows, and no entry is offered twice before it is used.
    if (pending > this.size) throw new VirtqueueError('avail-idx-overrun', { pending, size: this.size });
    this.seenAvailIdx = seen;
    return pending > 0;
  }

  private peekResumed(head: number): number {
    if (this.inFlight[head] !== 0) throw new VirtqueueError('inflight-invalid', { head });
    this.chain.walk(head);
    return head;
  }
}
