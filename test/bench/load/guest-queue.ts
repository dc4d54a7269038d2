import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { BLK_STATUS, BLK_TYPE, DESC, type GuestRam } from '@cairn/virtio/testing';
import type { LatencyHistogram } from './latency-histogram.js';

// The driver's half of one split virtqueue, as lean as a guest's: requests are laid out once, each in an indirect
// table of its own, and a completed one goes straight back into the avail ring with another sector. Nothing is
// allocated, and one store publishes a whole batch.
//
//   slot: [ header 16 B | status 1 B | indirect table 3 × 16 B ] and a data buffer of its own

const SLOT_BYTES = 128;
const STATUS_AT = 16;
const TABLE_AT = 32;
const DESC_BYTES = 16;
const PAGE = 4096;
const U16 = 0xffff;
const U32 = 2 ** 32;
const UNWRITTEN = 0xff;
/** How far ahead of the used index `used_event` is put so that the device never calls (virtio 1.2 §2.7.10). */
const NEVER = 0x8000;

/** What the queue asks for. */
export interface QueueLoad {
  write: boolean;
  random: boolean;
  blockBytes: number;
  depth: number;
  /** The part of the disk that this queue uses, in blocks. */
  firstBlock: number;
  blocks: number;
  seed: number;
}

/** Guest memory one queue takes, in bytes. */
export const queueBytes = ({ depth, blockBytes }: Pick<QueueLoad, 'depth' | 'blockBytes'>): number => {
  const size = sizeFor(depth);
  const rings = pages(size * DESC_BYTES) + pages(6 + 2 * size) + pages(6 + 8 * size);
  return rings + pages(depth * SLOT_BYTES) + depth * pages(blockBytes);
};

const pages = (bytes: number): number => Math.ceil(bytes / PAGE) * PAGE;

/** A ring as QEMU has it by default, or larger when the depth wants it: an indirect request takes one descriptor. */
const sizeFor = (depth: number): number => {
  let size = 128;
  while (size < depth) size *= 2;
  return size;
};

/** One virtqueue with its driver. Addresses are GPAs. */
export class GuestQueue {
  readonly size: number;
  readonly descGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
  readonly kickFd = check('eventfd', native.eventfd(0));
  /** The index that the next chain gets, which GET_VRING_BASE must give back. */
  availIdx = 0;
  inFlight = 0;
  kicks = 0;
  /** While set, completed requests are not started again. */
  stopping = false;
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  private readonly slotsGpa: number;
  private readonly origin: number;
  private readonly startedAt: Int32Array;
  private readonly availWord: number;
  private readonly usedWord: number;
  private readonly usedElements: number;
  private readonly availEventWord: number;
  private readonly usedEventWord: number;
  private readonly mask: number;
  private readonly sectorsPerBlock: number;
  private lastUsed = 0;
  private random: number;
  private cursor = 0;

  constructor(
    ram: GuestRam,
    private readonly load: QueueLoad,
  ) {
    const { depth, blockBytes } = load;
    const [region] = ram.regions;
    const buffer = region!.bytes.buffer;
    this.u8 = region!.bytes;
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.origin = region!.gpa;
    this.size = sizeFor(depth);
    this.mask = this.size - 1;
    this.descGpa = ram.allocate(this.size * DESC_BYTES, PAGE);
    this.availGpa = ram.allocate(6 + 2 * this.size, PAGE);
    this.usedGpa = ram.allocate(6 + 8 * this.size, PAGE);
    this.slotsGpa = ram.allocate(depth * SLOT_BYTES, PAGE);
    // struct virtq_avail: flags, idx, ring, used_event; struct virtq_used: flags, idx, ring, avail_event.
    this.availWord = (this.availGpa - this.origin) / 2 + 1;
    this.usedWord = (this.usedGpa - this.origin) / 2 + 1;
    this.usedElements = (this.usedGpa - this.origin) / 4 + 1;
    this.usedEventWord = this.availWord + 1 + this.size;
    this.availEventWord = this.usedWord + 1 + 4 * this.size;
    this.startedAt = new Int32Array(depth);
    this.sectorsPerBlock = blockBytes / 512;
    this.random = load.seed | 1;
    const dataGpa = ram.allocate(depth * pages(blockBytes), PAGE);
    for (let slot = 0; slot < depth; slot += 1) this.layOut(slot, dataGpa + slot * pages(blockBytes));
    this.u16[this.usedEventWord] = NEVER;
  }

  /** Puts every request into the ring for the first time. */
  startAll(now: number): void {
    for (let slot = 0; slot < this.load.depth; slot += 1) this.start(slot, now);
    this.publish(0);
  }

  /**
   * Takes the used elements that are there, starts their requests again and returns how many they were.
   *
   * `now` is the time of all of them, in wrapped nanoseconds. Throws when a request failed or the device named one
   * that is not in flight.
   */
  turn(now: number, latencies: LatencyHistogram): number {
    const { u32, usedElements, mask } = this;
    const idx = Atomics.load(this.u16, this.usedWord);
    let last = this.lastUsed;
    const count = (idx - last) & U16;
    if (count === 0) return 0;
    if (count > this.inFlight) throw new Error(`the used index moved by ${count} of ${this.inFlight}`);
    this.inFlight -= count;
    const old = this.availIdx;
    while (last !== idx) {
      const slot = u32[usedElements + 2 * (last & mask)]!;
      if (slot >= this.load.depth) throw new Error(`used element names descriptor ${slot}`);
      const at = this.slotsGpa - this.origin + slot * SLOT_BYTES + STATUS_AT;
      const status = this.u8[at]!;
      if (status !== BLK_STATUS.OK) throw new Error(`a request completed with status ${status}`);
      latencies.add((now - this.startedAt[slot]!) | 0);
      last = (last + 1) & U16;
      if (!this.stopping) this.start(slot, now);
    }
    this.lastUsed = last;
    if (this.availIdx !== old) this.publish(old);
    return count;
  }

  /** Whether there are used elements to take. */
  hasUsed(): boolean {
    return Atomics.load(this.u16, this.usedWord) !== this.lastUsed;
  }

  /** Asks for a call at the next used element; true when there is one already. */
  armCall(): boolean {
    Atomics.store(this.u16, this.usedEventWord, this.lastUsed);
    return Atomics.load(this.u16, this.usedWord) !== this.lastUsed;
  }

  /** Asks for no calls, whatever comes. */
  suppressCalls(): void {
    this.u16[this.usedEventWord] = (this.lastUsed + NEVER) & U16;
  }

  close(): void {
    closeSync(this.kickFd);
  }

  private start(slot: number, now: number): void {
    const at = this.slotsGpa - this.origin + slot * SLOT_BYTES;
    const sector = (this.load.firstBlock + this.nextBlock()) * this.sectorsPerBlock;
    this.u32[at / 4 + 2] = sector >>> 0;
    this.u32[at / 4 + 3] = (sector / U32) | 0;
    this.u8[at + STATUS_AT] = UNWRITTEN;
    this.startedAt[slot] = now;
    this.u16[this.availWord + 1 + (this.availIdx & this.mask)] = slot;
    this.availIdx = (this.availIdx + 1) & U16;
    this.inFlight += 1;
  }

  /** Shows the device what was started since `old`, and kicks if it asks for it (virtio 1.2 §2.7.13). */
  private publish(old: number): void {
    const { availIdx } = this;
    Atomics.store(this.u16, this.availWord, availIdx);
    const event = Atomics.load(this.u16, this.availEventWord);
    if (((availIdx - event - 1) & U16) >= ((availIdx - old) & U16)) return;
    this.kicks += 1;
    check('kick', native.signal(this.kickFd));
  }

  private nextBlock(): number {
    if (!this.load.random) {
      const block = this.cursor;
      this.cursor = block + 1 === this.load.blocks ? 0 : block + 1;
      return block;
    }
    // Marsaglia's xorshift32.
    let x = this.random;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.random = x;
    return Math.floor(((x >>> 0) / U32) * this.load.blocks);
  }

  /** The parts of a request that stay: its ring descriptor, its indirect table and the type in its header. */
  private layOut(slot: number, dataGpa: number): void {
    const gpa = this.slotsGpa + slot * SLOT_BYTES;
    const { write, blockBytes } = this.load;
    this.writeDesc(this.descGpa + slot * DESC_BYTES, gpa + TABLE_AT, 3 * DESC_BYTES, DESC.INDIRECT, 0);
    this.writeDesc(gpa + TABLE_AT, gpa, 16, DESC.NEXT, 1);
    const dataFlags = DESC.NEXT | (write ? 0 : DESC.WRITE);
    this.writeDesc(gpa + TABLE_AT + DESC_BYTES, dataGpa, blockBytes, dataFlags, 2);
    this.writeDesc(gpa + TABLE_AT + 2 * DESC_BYTES, gpa + STATUS_AT, 1, DESC.WRITE, 0);
    this.u32[(gpa - this.origin) / 4] = write ? BLK_TYPE.OUT : BLK_TYPE.IN;
    this.u32[(gpa - this.origin) / 4 + 1] = 0;
    // Neither peer shall find that all pages are the same zero page.
    this.u8.fill(slot + 1, dataGpa - this.origin, dataGpa - this.origin + blockBytes);
  }

  private writeDesc(at: number, gpa: number, length: number, flags: number, next: number): void {
    const word = (at - this.origin) / 4;
    this.u32[word] = gpa >>> 0;
    this.u32[word + 1] = Math.floor(gpa / U32);
    this.u32[word + 2] = length;
    this.u32[word + 3] = flags | (next << 16);
  }
}
