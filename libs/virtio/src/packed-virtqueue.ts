import type { Chain } from './chain.js';
import { PackedChain } from './packed-chain.js';
import type { PackedInflight, PackedPosition, PackedResumption } from './packed-inflight.js';
import {
  availableFlags,
  checkPackedSize,
  OWNER_FLAGS,
  PACKED_EVENT,
  PACKED_FLAG,
  PackedRingMemory,
  usedFlags,
} from './packed-ring-memory.js';
import type { SplitVirtqueueConfig } from './split-virtqueue.js';
import { VirtqueueError } from './virtqueue-error.js';

// The device's side of a packed virtqueue (virtio 1.2 §2.8): one ring, in which used descriptors overwrite available
// ones. Both run around it; the wrap counters tell laps apart. Between the two positions lies what was taken.
//
//   slot:     … used, free to the driver │ taken, ours to overwrite │ available to us, or still the driver's …
//                                      used                       avail
//
// The buffer id names a chain; how many slots it took is remembered, because used descriptors skip as many.

const U16 = 0xffff;
const SLOT_MASK = 0x7fff;
const WRAP_SHIFT = 15;

/** What a packed virtqueue needs to know to start. */
export interface PackedVirtqueueConfig extends Omit<SplitVirtqueueConfig, 'inflight'> {
  /**
   * Positions to go on from, as vhost-user carries them: avail slot in bits 0–14, its wrap counter in bit 15, used
   * slot in bits 16–30, its wrap counter in bit 31. A new ring starts from 0x80008000.
   *
   * DPDK and SPDK fill in the lower half only; an upper half of 0 means "the same as the lower half".
   */
  nextAvail: number;
  /** Record of what is in flight; when it has a past, its positions replace `nextAvail`. */
  inflight?: PackedInflight;
}

/** Device side of one packed virtqueue. Throws VirtqueueError when the driver breaks the ring. */
export class PackedVirtqueue {
  readonly size: number;
  inFlightCount = 0;
  private readonly ring: PackedRingMemory;
  private readonly packedChain: PackedChain;
  private readonly inflight: PackedInflight | undefined;
  private readonly eventIdx: boolean;
  /** Slots that the chain of a buffer id took; 0 when the id is free. */
  private readonly slotsOf: Uint16Array;
  private readonly avail: PackedPosition = { slot: 0, wrap: 1 };
  /** Where the next used descriptor goes. */
  private readonly used: PackedPosition = { slot: 0, wrap: 1 };
  /** Slots from the published used position to the avail position. */
  private heldSlots = 0;
  private eventFlags = -1;
  /** Completed, not published: ids in order, and the first one's flags, which publish them all. */
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private batchSlots = 0;
  private batchSlot = 0;
  private batchFlags = 0;
  /** Chains of an earlier process, to be taken before any other. */
  private resumed: { entries: Uint16Array; ids: Uint16Array; at: number } | undefined;

  constructor(config: PackedVirtqueueConfig) {
    const { memory, size } = config;
    checkPackedSize(size);
    this.size = size;
    this.start(config.nextAvail);
    this.ring = new PackedRingMemory(memory, config.addresses, size);
    config.onViews?.(this.ring.buffers);
    this.packedChain = new PackedChain(memory, size, { indirect: config.indirect });
    this.eventIdx = config.eventIdx;
    this.slotsOf = new Uint16Array(size);
    this.batch = new Uint16Array(size);
    this.inflight = config.inflight;
    const left = config.inflight?.resume(size, this.ring, this.used);
    if (left) this.resume(left);
    else this.checkBase();
  }

  /** Descriptor chain of the id that `peekAvail` returned last. */
  get chain(): Chain {
    return this.packedChain;
  }

  /** Both positions, packed as in the configuration: what a later device starts from once nothing is in flight. */
  get nextAvail(): number {
    const { avail, used } = this;
    const low = avail.slot | (avail.wrap << WRAP_SHIFT);
    return (low | (used.slot << 16) | (used.wrap << 31)) >>> 0;
  }

  /** Are there chains of an earlier process that were not taken yet? `nextAvail` is behind them already. */
  get resuming(): boolean {
    return this.resumed !== undefined;
  }

  /** Has the driver published a chain that was not taken? */
  hasAvail(): boolean {
    return this.resumed !== undefined || this.isAvailable(this.ring.flags(this.avail.slot), this.avail.wrap);
  }

  /**
   * Buffer id of the next available chain, whose descriptors are in `chain`; -1 when the driver published none.
   *
   * It stays available until `take`: a caller that has no room for it now may simply come again.
   */
  peekAvail(): number {
    if (this.resumed !== undefined) return this.peekResumed();
    const { ring, packedChain: chain, size } = this;
    let { slot, wrap } = this.avail;
    const flags = ring.flags(slot);
    if (!this.isAvailable(flags, wrap)) return -1;
    const words = ring.descriptors;
    chain.clear();
    let id = ring.id(slot);
    let more = chain.add(words[slot * 4]!, words[slot * 4 + 1]!, words[slot * 4 + 2]!, flags);
    while (more) {
      slot += 1;
      if (slot === size) {
        slot = 0;
        wrap ^= 1;
      }
      const at = slot * 4;
      const idAndFlags = words[at + 3]!;
      // virtio 1.2 §2.8.6: the whole list is available before its first descriptor is.
      if (!this.isAvailable(idAndFlags >>> 16, wrap))
        throw new VirtqueueError('descriptor-not-available', { slot });
      id = idAndFlags & U16;
      more = chain.add(words[at]!, words[at + 1]!, words[at + 2]!, idAndFlags >>> 16);
    }
    chain.finish(id);
    if (this.slotsOf[id] !== 0) throw new VirtqueueError('head-in-flight', { id });
    // virtio 1.2 §2.8.16: the driver leaves a descriptor alone until it is used.
    if (this.heldSlots + chain.slots > size)
      throw new VirtqueueError('avail-idx-overrun', { held: this.heldSlots, slots: chain.slots, size });
    return id;
  }

  /** Takes the chain that `peekAvail` showed: it is in flight until `complete`. */
  take(id: number): void {
    this.inFlightCount += 1;
    if (this.resumed !== undefined) {
      this.resumed.at += 1;
      if (this.resumed.at === this.resumed.ids.length) this.resumed = undefined;
      return;
    }
    const { slots } = this.packedChain;
    this.slotsOf[id] = slots;
    this.heldSlots += slots;
    this.advance(this.avail, slots);
    this.inflight?.take(this.packedChain);
  }

  /** Gives a chain back with the number of bytes written to it; the driver sees it after `publish`. */
  complete(id: number, writtenBytes: number): void {
    const { ring, used } = this;
    const slots = this.slotsOf[id]!;
    ring.writeUsed(used.slot, id, writtenBytes);
    const flags = usedFlags(used.wrap) | (writtenBytes > 0 ? PACKED_FLAG.WRITE : 0);
    if (this.batchCount === 0) {
      this.batchSlot = used.slot;
      this.batchFlags = flags;
    } else {
      ring.writeFlags(used.slot, flags);
    }
    this.batch[this.batchCount] = id;
    this.batchCount += 1;
    this.batchSlots += slots;
    this.advance(used, slots);
    this.inFlightCount -= 1;
  }

  /** Publishes completed chains; true when the driver wants a call for them (virtio 1.2 §2.8.10). */
  publish(): boolean {
    const { batch, batchCount: count, batchSlots: slots, used } = this;
    if (count === 0) return false;
    this.inflight?.publishing(batch, count, used.slot, used.wrap);
    this.ring.publishFlags(this.batchSlot, this.batchFlags);
    this.inflight?.published(batch, count, used.slot, used.wrap);
    for (let index = 0; index < count; index += 1) this.slotsOf[batch[index]!] = 0;
    this.heldSlots -= slots;
    this.batchCount = 0;
    this.batchSlots = 0;
    return this.callWanted(slots);
  }

  /** Asks the driver to kick for its next chain; false when one is there already, so that the caller goes on. */
  armKick(): boolean {
    const { slot, wrap } = this.avail;
    if (this.eventIdx) this.ring.setDeviceEventOffset(slot | (wrap << WRAP_SHIFT));
    this.setEventFlags(this.eventIdx ? PACKED_EVENT.DESC : PACKED_EVENT.ENABLE);
    return !this.hasAvail();
  }

  /** Asks the driver for no kicks: we look by ourselves. */
  disarmKick(): void {
    this.setEventFlags(PACKED_EVENT.DISABLE);
  }

  private setEventFlags(flags: number): void {
    if (this.eventFlags === flags) return;
    this.eventFlags = flags;
    this.ring.setDeviceEventFlags(flags);
  }

  private isAvailable(flags: number, wrap: number): boolean {
    return (flags & OWNER_FLAGS) === availableFlags(wrap);
  }

  private advance(position: PackedPosition, slots: number): void {
    position.slot += slots;
    if (position.slot >= this.size) {
      position.slot -= this.size;
      position.wrap ^= 1;
    }
  }

  /** Did the last `slots` used slots pass the one that the driver asked to be called for? */
  private callWanted(slots: number): boolean {
    const flags = this.ring.driverEventFlags();
    if (flags === PACKED_EVENT.DISABLE) return false;
    if (flags !== PACKED_EVENT.DESC || !this.eventIdx) return true;
    const event = this.ring.driverEventOffset();
    const offset = event & SLOT_MASK;
    if (offset >= this.size) return true;
    // Counted back from the used position: an event in the other lap lies a ring further.
    const behind = this.used.slot - offset + (event >>> WRAP_SHIFT === this.used.wrap ? 0 : this.size);
    return behind > 0 && behind <= slots;
  }

  private start(nextAvail: number): void {
    const low = nextAvail & U16;
    const high = nextAvail >>> 16 || low;
    this.avail.slot = low & SLOT_MASK;
    this.avail.wrap = low >>> WRAP_SHIFT;
    this.used.slot = high & SLOT_MASK;
    this.used.wrap = high >>> WRAP_SHIFT;
    const lap = this.avail.wrap === this.used.wrap ? 0 : this.size;
    this.heldSlots = this.avail.slot + lap - this.used.slot;
    const apart = this.heldSlots >= 0 && this.heldSlots <= this.size;
    if (this.avail.slot >= this.size || this.used.slot >= this.size || !apart)
      throw new VirtqueueError('ring-base-invalid', { nextAvail, size: this.size });
  }

  /**
   * Without a past on record, the ring goes on where the front-end says, with nothing in flight. Throws VirtqueueError
   * where the ring itself shows otherwise: then it stood elsewhere when whoever served it died, and where that was, and
   * what was in flight, nobody knows. See docs/adr/0025-a-packed-ring-without-a-record.md.
   */
  private checkBase(): void {
    const { heldSlots, size } = this;
    if (heldSlots > 0) throw new VirtqueueError('ring-base-stale', { heldSlots });
    let { slot, wrap } = this.avail;
    for (let left = size; left > 0; left -= 1) {
      // Used in a lap that is yet to come; the driver writes no such flags, so that it may be at work meanwhile.
      if ((this.ring.flags(slot) & OWNER_FLAGS) === usedFlags(wrap))
        throw new VirtqueueError('ring-base-stale', { slot, ahead: size - left });
      slot += 1;
      if (slot < size) continue;
      slot = 0;
      wrap ^= 1;
    }
  }

  /** Goes on where another process died: its chains are taken, and come first. */
  private resume({ entries, used }: PackedResumption): void {
    this.heldSlots = 0;
    const ids = Uint16Array.from(entries, (entry) => {
      const chain = this.recall(entry);
      if (this.slotsOf[chain.id] !== 0) throw new VirtqueueError('inflight-invalid', { id: chain.id });
      this.slotsOf[chain.id] = chain.slots;
      this.heldSlots += chain.slots;
      return chain.id;
    });
    Object.assign(this.used, used);
    Object.assign(this.avail, used);
    // Used descriptors that it wrote and did not publish would be taken for published once one before them is.
    for (let left = this.heldSlots; left > 0; left -= 1) {
      const { slot, wrap } = this.avail;
      if ((this.ring.flags(slot) & OWNER_FLAGS) === usedFlags(wrap))
        this.ring.publishFlags(slot, availableFlags(wrap));
      this.advance(this.avail, 1);
    }
    if (ids.length > 0) this.resumed = { entries, ids, at: 0 };
  }

  private peekResumed(): number {
    const { entries, ids, at } = this.resumed!;
    const id = this.recall(entries[at]!).id;
    if (id !== ids[at]) throw new VirtqueueError('inflight-invalid', { id });
    return id;
  }

  private recall(entry: number): PackedChain {
    this.inflight?.recall(entry, this.packedChain);
    return this.packedChain;
  }
}
