import { check, native } from '@cairn/native';
import type { BlkRing } from './blk-ring.js';
import type { DeviceShard } from './device-shard.js';

/** Scatter-gather entries of a slot; what a driver that honours seg_max needs at most. */
export const SLOT_SEGMENTS = 128;

/** `first` of a request without a scatter list. */
export const SOLE = -1;

const IOVEC_BYTES = 16;
const IOVEC_WORDS = 4;
const U32 = 2 ** 32;

/** What a slot is doing; its completion is handled accordingly. */
export const SLOT = {
  READ: 1,
  WRITE: 2,
  FLUSH: 3,
  BOUNCE_READ: 4,
  BOUNCE_WRITE: 5,
  PATCH_READ: 6,
  PATCH_WRITE: 7,
  ZERO: 9,
  /** A flush of our own, without a guest's request behind it. */
  DEVICE_FLUSH: 8,
  /** One of several steps on a volume that has parents, or waiting for its turn; see LayeredIo. */
  STEP: 10,
} as const;

/** A scatter list too long for its slot, in memory of its own. */
interface LongList {
  address: number;
  bytes: number;
  buffer: ArrayBuffer;
}

/**
 * Requests in flight, as columns: nothing is allocated for a request, and an iovec array stands ready in memory that
 * the kernel reads directly.
 */
export class RequestSlots {
  readonly shard: (DeviceShard | undefined)[];
  /** The ring that the request came from; undefined for a DEVICE_FLUSH, and for a part of another request. */
  readonly ring: (BlkRing | undefined)[];
  readonly head: Uint16Array;
  readonly kind: Uint8Array;
  /** 1 while every write of the request that went to the kernel is durable when it completes. */
  readonly durable: Uint8Array;
  /** Kind of request, for the metrics. */
  readonly operation: Uint8Array;
  /** When it was taken off its ring, and given to the kernel: microseconds, wrapped. */
  readonly takenAt: Int32Array;
  readonly submittedAt: Int32Array;
  readonly status: { low: Uint32Array; high: Uint32Array };
  /** The file that its next entry goes to. */
  readonly fd: Int32Array;
  /** File offset of what is left, in bytes. */
  readonly offset: Float64Array;
  /** Bytes left. */
  readonly remaining: Float64Array;
  /** Bytes of data in the whole request. */
  readonly dataBytes: Float64Array;
  /** Bytes that the used element will tell of. */
  readonly written: Float64Array;
  /**
   * First scatter entry that is left, and how many are. A request in one piece may do without a list, which is so much
   * less memory to touch: then `first` is SOLE, and where the rest of the piece is stands in `sole`.
   */
  readonly first: Int32Array;
  readonly segments: Int32Array;
  readonly sole: { low: Uint32Array; high: Uint32Array };
  private readonly lists: Uint32Array[];
  private readonly addressLow: Uint32Array;
  private readonly addressHigh: Uint32Array;
  private readonly ownLists: Uint32Array[];
  private readonly long = new Map<number, LongList>();
  private readonly arena: { address: number; bytes: number; buffer: ArrayBuffer };
  private readonly fresh: Int32Array;
  private freshCount = 0;
  private readonly free: Int32Array;
  private freeCount: number;

  constructor(readonly count: number) {
    this.ring = Array.from({ length: count }, () => undefined);
    this.shard = Array.from({ length: count }, () => undefined);
    this.head = new Uint16Array(count);
    this.kind = new Uint8Array(count);
    this.durable = new Uint8Array(count);
    this.operation = new Uint8Array(count);
    this.takenAt = new Int32Array(count);
    this.submittedAt = new Int32Array(count);
    this.fresh = new Int32Array(count);
    this.status = { low: new Uint32Array(count), high: new Uint32Array(count) };
    this.fd = new Int32Array(count);
    this.offset = new Float64Array(count);
    this.remaining = new Float64Array(count);
    this.dataBytes = new Float64Array(count);
    this.written = new Float64Array(count);
    this.first = new Int32Array(count);
    this.segments = new Int32Array(count);
    this.sole = { low: new Uint32Array(count), high: new Uint32Array(count) };
    this.addressLow = new Uint32Array(count);
    this.addressHigh = new Uint32Array(count);
    const bytes = count * SLOT_SEGMENTS * IOVEC_BYTES;
    const address = check('mmap', native.mapShared(-1, 0, bytes));
    const buffer = native.view(address, bytes);
    this.arena = { address, bytes, buffer };
    this.ownLists = Array.from(
      { length: count },
      (_, slot) => new Uint32Array(buffer, slot * SLOT_SEGMENTS * IOVEC_BYTES, SLOT_SEGMENTS * IOVEC_WORDS),
    );
    this.lists = [...this.ownLists];
    for (let slot = 0; slot < count; slot += 1)
      this.setAddress(slot, address + slot * SLOT_SEGMENTS * IOVEC_BYTES);
    this.free = Int32Array.from({ length: count }, (_, index) => count - 1 - index);
    this.freeCount = count;
  }

  get available(): number {
    return this.freeCount;
  }

  /** Takes a free slot; ask `available` first. */
  take(shard: DeviceShard, ring: BlkRing | undefined, kind: number): number {
    this.freeCount -= 1;
    const slot = this.free[this.freeCount]!;
    this.shard[slot] = shard;
    this.ring[slot] = ring;
    this.kind[slot] = kind;
    return slot;
  }

  release(slot: number): void {
    this.shard[slot] = undefined;
    this.ring[slot] = undefined;
    if (this.long.size > 0) this.dropLongList(slot);
    this.free[this.freeCount] = slot;
    this.freeCount += 1;
  }

  /** Notes that an entry for `slot` has been prepared; `submitted` gives it its time. */
  noteSubmission(slot: number): void {
    if (this.freshCount < this.count) this.fresh[this.freshCount++] = slot;
  }

  /** All prepared entries went to the kernel at `now`; returns their number. */
  submitted(now: number): number {
    const count = this.freshCount;
    for (let index = 0; index < count; index += 1) this.submittedAt[this.fresh[index]!] = now;
    this.freshCount = 0;
    return count;
  }

  /**
   * Room for `segments` scatter entries, as 32-bit words; more than SLOT_SEGMENTS get memory of their own. Undefined
   * when there is no memory.
   */
  listFor(slot: number, segments: number): Uint32Array | undefined {
    if (segments <= SLOT_SEGMENTS) return this.lists[slot]!;
    const bytes = segments * IOVEC_BYTES;
    const address = native.mapShared(-1, 0, bytes);
    if (address < 0) return undefined;
    const buffer = native.view(address, bytes);
    this.long.set(slot, { address, bytes, buffer });
    this.lists[slot] = new Uint32Array(buffer);
    this.setAddress(slot, address);
    return this.lists[slot];
  }

  list(slot: number): Uint32Array {
    return this.lists[slot]!;
  }

  /** Address of the first entry that is left, as two words. */
  listLow(slot: number): number {
    return (this.addressLow[slot]! + this.first[slot]! * IOVEC_BYTES) >>> 0;
  }

  listHigh(slot: number): number {
    const low = this.addressLow[slot]! + this.first[slot]! * IOVEC_BYTES;
    return this.addressHigh[slot]! + (low >= U32 ? 1 : 0);
  }

  /** Moves the start of what is left by `bytes`: over whole entries, then into one. */
  advance(slot: number, bytes: number): void {
    this.remaining[slot]! -= bytes;
    this.offset[slot]! += bytes;
    if (this.first[slot] === SOLE) {
      const low = this.sole.low[slot]! + bytes;
      this.sole.low[slot] = low;
      if (low >= U32) this.sole.high[slot]! += 1;
      return;
    }
    const list = this.lists[slot]!;
    let left = bytes;
    let at = this.first[slot]! * IOVEC_WORDS;
    while (left > 0 && left >= list[at + 2]!) {
      left -= list[at + 2]!;
      at += IOVEC_WORDS;
      this.first[slot]! += 1;
      this.segments[slot]! -= 1;
    }
    if (left > 0) {
      const low = list[at]! + left;
      list[at] = low;
      if (low >= U32) list[at + 1]! += 1;
      list[at + 2]! -= left;
    }
  }

  close(): void {
    for (const slot of this.long.keys()) this.dropLongList(slot);
    native.detach(this.arena.buffer);
    native.unmap(this.arena.address, this.arena.bytes);
  }

  private dropLongList(slot: number): void {
    const list = this.long.get(slot);
    if (!list) return;
    this.long.delete(slot);
    native.detach(list.buffer);
    native.unmap(list.address, list.bytes);
    this.lists[slot] = this.ownLists[slot]!;
    this.setAddress(slot, this.arena.address + slot * SLOT_SEGMENTS * IOVEC_BYTES);
  }

  private setAddress(slot: number, address: number): void {
    this.addressLow[slot] = address % U32;
    this.addressHigh[slot] = Math.floor(address / U32);
  }
}
