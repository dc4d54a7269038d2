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

// The record of what a split queue has in flight, in memory that outlives the process (vhost-user, "Inflight I/O
// tracking"): the next process answers what this one took and did not answer, and nothing else.
//
//   take ──▶ inflight = 1 ──▶ batch linked ──▶ used.idx ──▶ inflight = 0 ──▶ used_idx
//
// A kill between any two stores is recoverable, so their order in this file is the point of it. A killed process's
// stores reach shared memory in program order; no barrier is needed. The memory also belongs to the front-end, so a
// running queue only writes it, and `resume` believes nothing that it does not check.

const HEADER_BYTES = 16;
const ENTRY_BYTES = 16;
const U16 = 0xffff;
const U32 = 2 ** 32;

/** Bytes of one split queue's region; queue i's region starts at i times this. */
export const splitInflightBytes = (entries: number): number =>
  alignedRegionBytes(HEADER_BYTES, ENTRY_BYTES, entries);

/** What an earlier process left of a split queue. */
export interface SplitResumption {
  /** Heads to process again, in the order in which they were taken. */
  heads: Uint16Array;
  /** Where the avail ring goes on after them. */
  nextAvail: number;
}

/** One split queue's region: QueueRegionSplit and its DescStateSplit entries. */
export class SplitInflight {
  private readonly bytes: Uint8Array;
  private readonly halves: Uint16Array;
  private readonly words: Uint32Array;
  private readonly entries: number;
  /** Completed since the last publication; private, so that the front-end cannot misguide us. */
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private lastBatchHead = 0;
  private counter = 0;

  constructor(region: InflightRegion) {
    const { buffer, offsetBytes, entries } = region;
    const lengthBytes = splitInflightBytes(entries);
    checkRegion(region, lengthBytes);
    this.entries = entries;
    this.bytes = new Uint8Array(buffer, offsetBytes, lengthBytes);
    this.halves = new Uint16Array(buffer, offsetBytes, lengthBytes / 2);
    this.words = new Uint32Array(buffer, offsetBytes, lengthBytes / 4);
    this.batch = new Uint16Array(entries);
  }

  /**
   * What to take up again, given the ring's size and its published used.idx; undefined when the region was new (or
   * belonged to a ring that was since reset) and nothing is in flight. To be called once, before `take`.
   *
   * Throws VirtqueueError when the region contradicts itself.
   */
  resume(size: number, usedIdx: number): SplitResumption | undefined {
    const { halves } = this;
    if (size > this.entries) throw inflightInvalid({ size, entries: this.entries });
    const pending = (usedIdx - halves[7]!) & U16;
    // No batch is larger than the region: then the ring began anew and the record is of its former life.
    if (halves[4] === 0 || pending > this.entries) {
      this.initialise(usedIdx);
      return undefined;
    }
    if (halves[4] !== INFLIGHT_VERSION || halves[5] !== this.entries)
      throw inflightInvalid({ version: halves[4]!, entries: halves[5]! });
    this.lastBatchHead = halves[6]!;
    if (pending > 0) this.closeLastBatch(pending, usedIdx);
    const found = this.collect(size);
    this.counter = found.nextCounter;
    return { heads: found.order, nextAvail: (usedIdx + found.order.length) & U16 };
  }

  /** Records a chain that was taken off the avail ring; not to be called for those that `resume` gave. */
  take(head: number): void {
    const at = (HEADER_BYTES + ENTRY_BYTES * head) >>> 2;
    this.words[at + 2] = this.counter >>> 0;
    this.words[at + 3] = this.counter / U32;
    this.counter += 1;
    this.bytes[at * 4] = 1;
  }

  /** Notes a chain as completed; still in flight for whoever resumes, until `published`. */
  complete(head: number): void {
    this.batch[this.batchCount] = head;
    this.batchCount += 1;
  }

  /** To be called before the store to used.idx: links the batch, so that a kill right after that store is seen. */
  publishing(): void {
    const { halves, batch } = this;
    for (let index = 0; index < this.batchCount; index += 1) {
      const head = batch[index]!;
      halves[(HEADER_BYTES + ENTRY_BYTES * head) / 2 + 3] = this.lastBatchHead;
      halves[6] = head;
      this.lastBatchHead = head;
    }
  }

  /** To be called after the store of `usedIdx` to used.idx: what it published is no longer in flight. */
  published(usedIdx: number): void {
    for (let index = 0; index < this.batchCount; index += 1) {
      this.bytes[HEADER_BYTES + ENTRY_BYTES * this.batch[index]!] = 0;
    }
    this.halves[7] = usedIdx;
    this.batchCount = 0;
  }

  private initialise(usedIdx: number): void {
    this.halves[4] = 0;
    this.words.fill(0);
    this.halves[5] = this.entries;
    this.halves[7] = usedIdx;
    this.halves[4] = INFLIGHT_VERSION;
  }

  /** The process died between used.idx and `published`: the last batch is answered, whatever its entries say. */
  private closeLastBatch(count: number, usedIdx: number): void {
    let head = this.lastBatchHead;
    for (let left = count; left > 0; left -= 1) {
      if (head >= this.entries) throw inflightInvalid({ head });
      const at = HEADER_BYTES + ENTRY_BYTES * head;
      this.bytes[at] = 0;
      head = this.halves[at / 2 + 3]!;
    }
    this.halves[7] = usedIdx;
  }

  private collect(size: number): Ordered {
    const heads: Counted[] = [];
    for (let head = 0; head < this.entries; head += 1) {
      const at = (HEADER_BYTES + ENTRY_BYTES * head) >>> 2;
      if (this.bytes[at * 4] !== 1) continue;
      if (head >= size) throw inflightInvalid({ head, size });
      heads.push({ index: head, counter: counterAt(this.words, at + 2) });
    }
    return inOrder(heads);
  }
}
