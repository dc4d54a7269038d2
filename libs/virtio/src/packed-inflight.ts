import {
  alignedRegionBytes,
  checkRegion,
  counterAt,
  type Counted,
  INFLIGHT_VERSION,
  inflightInvalid,
  type InflightRegion,
  inOrder,
  type Ordered,
} from './inflight-region.js';
import type { PackedChain } from './packed-chain.js';
import { availableFlags, OWNER_FLAGS, PACKED_FLAG } from './packed-ring-memory.js';

// The record of what a packed queue has in flight, in memory that outlives the process (vhost-user, "Inflight I/O
// tracking"): the next process answers what this one took and did not answer, and nothing else.
//
//   take ──▶ old_free_head ──▶ batch linked ──▶ used_idx ──▶ flags in the ring ──▶ inflight = 0 ──▶ old_used_idx
//
// A kill between any two stores is recoverable, so their order in this file is the point of it. A killed process's
// stores reach shared memory in program order; no barrier is needed. The memory also belongs to the front-end, so a
// running queue only writes it, and `resume` believes nothing that it does not check.

const HEADER_BYTES = 32; // 29 used bytes, then alignment
const ENTRY_BYTES = 32;
const U16 = 0xffff;
const U32 = 2 ** 32;

/** Bytes of one packed queue's region; queue i's region starts at i times this. */
export const packedInflightBytes = (entries: number): number =>
  alignedRegionBytes(HEADER_BYTES, ENTRY_BYTES, entries);

/** Index of the first 32-bit word of a DescStatePacked entry. */
const wordOf = (entry: number): number => (HEADER_BYTES + ENTRY_BYTES * entry) >>> 2;

/** The ring as `resume` must see it. */
export interface PackedRingView {
  /** Flags of a slot. */
  flags(slot: number): number;
}

/** A place in a packed ring. */
export interface PackedPosition {
  slot: number;
  wrap: number;
}

/** What an earlier process left of a packed queue. */
export interface PackedResumption {
  /** Record entries of the chains to process again, in the order in which they were taken; see `recall`. */
  entries: Uint16Array;
  /** Where the next used descriptor goes. */
  used: PackedPosition;
}

/** One packed queue's region: QueueRegionPacked and its DescStatePacked entries. */
export class PackedInflight {
  private readonly bytes: Uint8Array;
  private readonly halves: Uint16Array;
  private readonly words: Uint32Array;
  private readonly doubles: Float64Array;
  private readonly entries: number;
  private readonly entryOf: Uint16Array;
  /** Last record entry of the chain with this head entry. */
  private readonly lastOf: Uint16Array;
  private readonly next: Uint16Array;
  private freeHead = 0;
  private counter = 0;
  private used: PackedPosition = { slot: 0, wrap: 1 };
  /** Both used positions as one aligned 8-byte store (a tiny double), so that a kill never leaves half of them. */
  private readonly positions = new Float64Array(1);
  private readonly positionHalves = new Uint16Array(this.positions.buffer);

  constructor(region: InflightRegion) {
    const { buffer, offsetBytes, entries } = region;
    const lengthBytes = packedInflightBytes(entries);
    checkRegion(region, lengthBytes);
    this.entries = entries;
    this.bytes = new Uint8Array(buffer, offsetBytes, lengthBytes);
    this.halves = new Uint16Array(buffer, offsetBytes, lengthBytes / 2);
    this.words = new Uint32Array(buffer, offsetBytes, lengthBytes / 4);
    this.doubles = new Float64Array(buffer, offsetBytes, lengthBytes / 8);
    this.entryOf = new Uint16Array(entries);
    this.lastOf = new Uint16Array(entries);
    this.next = new Uint16Array(entries);
  }

  /**
   * What to take up again, given the ring and the used position that the front-end names; undefined when the region
   * was new and nothing is in flight. To be called once, before `take`.
   *
   * The region's own used position comes first: after a crash the front-end knows no better than its last start.
   * Throws VirtqueueError when the region contradicts itself.
   */
  resume(size: number, ring: PackedRingView, used: PackedPosition): PackedResumption | undefined {
    const { halves } = this;
    if (size > this.entries) throw inflightInvalid({ size, entries: this.entries });
    if (halves[4] === 0) {
      this.initialise(used);
      return undefined;
    }
    if (halves[4] !== INFLIGHT_VERSION || halves[5] !== this.entries)
      throw inflightInvalid({ version: halves[4]!, entries: halves[5]! });
    this.settle(size, ring);
    for (let entry = 0; entry < this.entries; entry += 1) this.next[entry] = halves[wordOf(entry) * 2 + 1]!;
    const found = this.collect(size, this.clearFree());
    this.counter = found.nextCounter;
    return { entries: found.order, used: this.used };
  }

  /**
   * Fills `chain` with what an entry of `resume` recorded, checked as if it came from the ring, and ties the entry to
   * the chain's id.
   */
  recall(entry: number, chain: PackedChain): void {
    chain.clear();
    let at = wordOf(entry);
    let left = this.halves[at * 2 + 3]!;
    let id: number;
    for (let from = entry; ; from = this.next[from]!, at = wordOf(from)) {
      const idAndFlags = this.words[at + 4]!;
      id = idAndFlags & U16;
      const more = chain.add(
        this.words[at + 6]!,
        this.words[at + 7]!,
        this.words[at + 5]!,
        idAndFlags >>> 16,
      );
      left -= 1;
      if (more !== left > 0) throw inflightInvalid({ entry });
      if (!more) break;
    }
    chain.finish(id);
    this.entryOf[id] = entry;
  }

  /** Records a chain that was taken off the ring; not to be called for those that `resume` gave. */
  take(chain: PackedChain): void {
    const { words, halves } = this;
    const head = this.freeHead;
    let last = head;
    let free = head;
    for (let index = 0; index < chain.slots; index += 1) {
      last = free;
      const at = wordOf(last);
      if (chain.tableBytes > 0) {
        words[at + 4] = chain.id | (PACKED_FLAG.INDIRECT << 16);
        words[at + 5] = chain.tableBytes;
        words[at + 6] = chain.tableLow;
        words[at + 7] = chain.tableHigh;
      } else {
        const flags =
          (index < chain.readable ? 0 : PACKED_FLAG.WRITE) |
          (index === chain.slots - 1 ? 0 : PACKED_FLAG.NEXT);
        words[at + 4] = chain.id | (flags << 16);
        words[at + 5] = chain.length[index]!;
        words[at + 6] = chain.low[index]!;
        words[at + 7] = chain.high[index]!;
      }
      free = this.next[last]!;
    }
    const at = wordOf(head);
    words[at + 1] = last | (chain.slots << 16);
    words[at + 2] = this.counter >>> 0;
    words[at + 3] = this.counter / U32;
    this.counter += 1;
    this.entryOf[chain.id] = head;
    this.lastOf[head] = last;
    this.freeHead = free;
    this.bytes[at * 4] = 1;
    halves[6] = free;
    // From this store on the chain is taken; before it the entry is on the free list, whatever it says.
    halves[7] = free;
  }

  /**
   * To be called before the store of the flags that publish `ids`: links the batch and names the used position behind
   * it, so that a kill right after that store is seen.
   */
  publishing(ids: Uint16Array, count: number, slot: number, wrap: number): void {
    for (let index = 0; index < count; index += 1) {
      const entry = this.entryOf[ids[index]!]!;
      const last = this.lastOf[entry]!;
      this.next[last] = this.freeHead;
      this.halves[wordOf(last) * 2 + 1] = this.freeHead;
      this.freeHead = entry;
    }
    this.halves[6] = this.freeHead;
    this.storePositions(slot, wrap, this.used.slot, this.used.wrap);
  }

  /** To be called after the store of the flags, with the same arguments: what they published is not in flight. */
  published(ids: Uint16Array, count: number, slot: number, wrap: number): void {
    for (let index = 0; index < count; index += 1) {
      this.bytes[wordOf(this.entryOf[ids[index]!]!) * 4] = 0;
    }
    this.halves[7] = this.freeHead;
    this.storePositions(slot, wrap, slot, wrap);
    this.used.slot = slot;
    this.used.wrap = wrap;
  }

  private initialise(used: PackedPosition): void {
    this.words.fill(0);
    for (let entry = 0; entry < this.entries; entry += 1) {
      this.next[entry] = entry + 1;
      this.halves[wordOf(entry) * 2 + 1] = entry + 1;
    }
    this.halves[5] = this.entries;
    this.used = { ...used };
    this.storePositions(used.slot, used.wrap, used.slot, used.wrap);
    this.halves[4] = INFLIGHT_VERSION;
  }

  /** Commits the batch that was under way when the process died if the ring shows it, else takes it back. */
  private settle(size: number, ring: PackedRingView): void {
    const { halves, bytes } = this;
    const was: PackedPosition = { slot: halves[9]!, wrap: bytes[21]! };
    const is: PackedPosition = { slot: halves[8]!, wrap: bytes[20]! };
    for (const { slot, wrap } of [was, is])
      if (slot >= size || wrap > 1) throw inflightInvalid({ slot, wrap });
    // A batch as long as the ring ends at the slot where it began: the wrap counter tells them apart.
    const underWay = was.slot !== is.slot || was.wrap !== is.wrap;
    // The driver may have used the slot again since, a lap later; only untouched it has the flags of its own lap.
    if (underWay && (ring.flags(was.slot) & OWNER_FLAGS) !== availableFlags(was.wrap)) {
      this.used = is;
      halves[7] = halves[6]!;
    } else {
      this.used = was;
      halves[6] = halves[7]!;
    }
    this.freeHead = halves[7]!;
    this.storePositions(this.used.slot, this.used.wrap, this.used.slot, this.used.wrap);
  }

  /**
   * Marks the entries of the free list: they are not in flight, though one that was being taken when the process died
   * still says so.
   */
  private clearFree(): Uint8Array {
    const seen = new Uint8Array(this.entries);
    for (let entry = this.freeHead; entry !== this.entries; entry = this.next[entry]!) {
      if (entry > this.entries || seen[entry] === 1) throw inflightInvalid({ entry });
      seen[entry] = 1;
      this.bytes[wordOf(entry) * 4] = 0;
    }
    return seen;
  }

  /** All other entries belong to chains in flight, each to one. */
  private collect(size: number, seen: Uint8Array): Ordered {
    const heads: Counted[] = [];
    let slots = 0;
    for (let entry = 0; entry < this.entries; entry += 1) {
      const at = wordOf(entry);
      if (this.bytes[at * 4] !== 1) continue;
      const count = this.halves[at * 2 + 3]!;
      slots += count;
      if (count === 0 || slots > size) throw inflightInvalid({ entry, count });
      let last = entry;
      for (let step = 0, from = entry; step < count; step += 1, from = this.next[from]!) {
        if (from >= this.entries || seen[from] === 1) throw inflightInvalid({ entry, from });
        seen[from] = 1;
        last = from;
      }
      this.lastOf[entry] = last;
      heads.push({ index: entry, counter: counterAt(this.words, at + 2) });
    }
    const lost = seen.indexOf(0);
    if (lost >= 0) throw inflightInvalid({ lost });
    return inOrder(heads);
  }

  private storePositions(slot: number, wrap: number, oldSlot: number, oldWrap: number): void {
    const { positionHalves } = this;
    positionHalves[0] = slot;
    positionHalves[1] = oldSlot;
    positionHalves[2] = wrap | (oldWrap << 8);
    this.doubles[2] = this.positions[0]!;
  }
}
