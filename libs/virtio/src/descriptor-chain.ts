import type { GuestMemory } from './guest-memory.js';
import { VirtqueueError } from './virtqueue-error.js';

// A descriptor chain, copied out of guest memory once and checked on the way; nothing here is read from the guest
// again, so what was checked is what is used (no double fetch).

const FLAG_NEXT = 1;
const FLAG_WRITE = 2;
const FLAG_INDIRECT = 4;
const DESCRIPTOR_BYTES = 16;
const U32 = 2 ** 32;

/**
 * Longest chain. virtio 1.2 §2.7.5.3.1 says "queue size", but Linux fills indirect tables up to seg_max + 2 whatever
 * the ring's size; QEMU takes 1024 (VIRTQUEUE_MAX_SIZE), and so do we. It also bounds what one chain of a large ring
 * costs the other guests of the thread: nobody who honours seg_max comes near it.
 */
export const MAX_CHAIN = 1024;

/**
 * The chain of one request: `count` descriptors, the first `readable` of them device-readable, the rest
 * device-writable. One object a queue, filled anew by each `walk`.
 */
export class DescriptorChain {
  count = 0;
  readable = 0;
  readableBytes = 0;
  writableBytes = 0;
  readonly low: Uint32Array;
  readonly high: Uint32Array;
  readonly length: Uint32Array;
  private copied: Uint32Array | undefined;

  constructor(
    private readonly memory: GuestMemory,
    private readonly table: Uint32Array,
    private readonly size: number,
    private readonly options: { indirect: boolean },
  ) {
    this.low = new Uint32Array(MAX_CHAIN);
    this.high = new Uint32Array(MAX_CHAIN);
    this.length = new Uint32Array(MAX_CHAIN);
  }

  /** Copies and checks the chain at `head` (< ring size). Throws VirtqueueError when the driver broke a rule. */
  walk(head: number): void {
    let words = this.table;
    let base = 0;
    let entries = this.size;
    let longest = Math.min(this.size, MAX_CHAIN);
    let inTable = false;
    let index = head;
    let count = 0;
    let readable = 0;
    let readableBytes = 0;
    let writableBytes = 0;
    for (;;) {
      if (count >= longest) throw new VirtqueueError('chain-too-long', { count });
      const at = base + index * 4;
      const low = words[at]!;
      const high = words[at + 1]!;
      const bytes = words[at + 2]!;
      const flagsAndNext = words[at + 3]!;
      if ((flagsAndNext & FLAG_INDIRECT) !== 0) {
        // virtio 1.2 §2.7.5.3: one table, at the end of the chain, never inside another table.
        if (inTable) throw new VirtqueueError('indirect-nested', { index });
        if (!this.options.indirect) throw new VirtqueueError('indirect-not-negotiated');
        if ((flagsAndNext & FLAG_NEXT) !== 0) throw new VirtqueueError('indirect-with-next', { index });
        words = this.indirectTable(low, high, bytes);
        base = words === this.copied ? 0 : this.memory.wordIndex(low);
        entries = Math.min(bytes / DESCRIPTOR_BYTES, MAX_CHAIN);
        longest = MAX_CHAIN;
        inTable = true;
        index = 0;
        continue;
      }
      if (bytes === 0) throw new VirtqueueError('descriptor-empty', { index });
      if (!this.memory.contains(low, high, bytes))
        throw new VirtqueueError('descriptor-outside-memory', { index });
      if ((flagsAndNext & FLAG_WRITE) !== 0) {
        writableBytes += bytes;
      } else {
        // virtio 1.2 §2.7.4.2: device-readable elements come before device-writable ones.
        if (readable !== count) throw new VirtqueueError('readable-after-writable', { index });
        readable += 1;
        readableBytes += bytes;
      }
      // Trusted from here: this descriptor's range is mapped guest memory.
      this.low[count] = low;
      this.high[count] = high;
      this.length[count] = bytes;
      count += 1;
      if ((flagsAndNext & FLAG_NEXT) === 0) break;
      index = flagsAndNext >>> 16;
      if (index >= entries) throw new VirtqueueError('next-out-of-range', { index });
    }
    // virtio 1.2 §2.7.4.1 (driver): a chain holds at most 2^32 bytes in all.
    if (readableBytes + writableBytes > U32) throw new VirtqueueError('chain-too-large', { count });
    this.count = count;
    this.readable = readable;
    this.readableBytes = readableBytes;
    this.writableBytes = writableBytes;
  }

  /** Words of an indirect table: in place where aligned inside one window, else a copy. */
  private indirectTable(low: number, high: number, bytes: number): Uint32Array {
    if (bytes === 0 || bytes % DESCRIPTOR_BYTES !== 0)
      throw new VirtqueueError('indirect-size-invalid', { bytes });
    if (!this.memory.contains(low, high, bytes))
      throw new VirtqueueError('descriptor-outside-memory', { bytes });
    const inPlace = this.memory.wordsAt(low, high, bytes);
    if (inPlace) return inPlace;
    const copy = new Uint8Array(Math.min(bytes, MAX_CHAIN * DESCRIPTOR_BYTES));
    this.memory.read(low, high, copy);
    this.copied = new Uint32Array(copy.buffer);
    return this.copied;
  }
}
