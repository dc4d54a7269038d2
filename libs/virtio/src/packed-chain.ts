import type { Chain } from './chain.js';
import { MAX_CHAIN } from './descriptor-chain.js';
import type { GuestMemory } from './guest-memory.js';
import { PACKED_FLAG } from './packed-ring-memory.js';
import { VirtqueueError } from './virtqueue-error.js';

// A chain of a packed ring, fed descriptor by descriptor by whoever reads them (the ring, or the record of what was in
// flight), each copied out of shared memory once and checked on the way (no double fetch).

const DESCRIPTOR_BYTES = 16;
const U32 = 2 ** 32;

/** One object a queue, filled anew: `clear`, `add` for each ring descriptor, `finish`. */
export class PackedChain implements Chain {
  count = 0;
  readable = 0;
  readableBytes = 0;
  writableBytes = 0;
  readonly low: Uint32Array;
  readonly high: Uint32Array;
  readonly length: Uint32Array;
  /** Ring slots that the chain takes. */
  slots = 0;
  /** Buffer id, which names the chain when it is given back. */
  id = -1;
  /** The indirect table; `tableBytes` is 0 when the chain is direct. */
  tableLow = 0;
  tableHigh = 0;
  tableBytes = 0;
  private readonly longest: number;

  constructor(
    private readonly memory: GuestMemory,
    private readonly size: number,
    private readonly options: { indirect: boolean },
  ) {
    this.longest = Math.min(size, MAX_CHAIN);
    this.low = new Uint32Array(MAX_CHAIN);
    this.high = new Uint32Array(MAX_CHAIN);
    this.length = new Uint32Array(MAX_CHAIN);
  }

  clear(): void {
    this.count = 0;
    this.readable = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    this.slots = 0;
    this.tableBytes = 0;
  }

  /** Adds a ring descriptor; true when its flags say that another follows. Throws VirtqueueError. */
  add(low: number, high: number, bytes: number, flags: number): boolean {
    // virtio 1.2 §2.8.17: a list is never longer than the ring; MAX_CHAIN says why not longer than that either.
    if (this.slots === this.longest) throw new VirtqueueError('chain-too-long', { slots: this.slots });
    this.slots += 1;
    if ((flags & PACKED_FLAG.INDIRECT) === 0) {
      this.append(low, high, bytes, flags);
      return (flags & PACKED_FLAG.NEXT) !== 0;
    }
    if (!this.options.indirect) throw new VirtqueueError('indirect-not-negotiated');
    // virtio 1.2 §2.8.7: a list is either direct descriptors or one table.
    if (this.slots > 1 || (flags & PACKED_FLAG.NEXT) !== 0)
      throw new VirtqueueError('indirect-with-next', { slots: this.slots });
    this.addTable(low, high, bytes);
    return false;
  }

  /** Ends the chain with the id of its last ring descriptor (virtio 1.2 §2.8.6). Throws VirtqueueError. */
  finish(id: number): void {
    if (id >= this.size) throw new VirtqueueError('head-out-of-range', { id, size: this.size });
    // virtio 1.2 §2.7.4.1 says so for split rings; §2.8 says nothing, so the same holds here.
    if (this.readableBytes + this.writableBytes > U32)
      throw new VirtqueueError('chain-too-large', { count: this.count });
    this.id = id;
  }

  /** In an indirect table all entries count, in order, and no flag but WRITE (virtio 1.2 §2.8.7). */
  private addTable(low: number, high: number, bytes: number): void {
    if (bytes === 0 || bytes % DESCRIPTOR_BYTES !== 0)
      throw new VirtqueueError('indirect-size-invalid', { bytes });
    const entries = bytes / DESCRIPTOR_BYTES;
    if (entries > MAX_CHAIN) throw new VirtqueueError('chain-too-long', { entries });
    if (!this.memory.contains(low, high, bytes))
      throw new VirtqueueError('descriptor-outside-memory', { bytes });
    const inPlace = this.memory.wordsAt(low, high, bytes);
    const words = inPlace ?? this.copyTable(low, high, bytes);
    let at = inPlace ? this.memory.wordIndex(low) : 0;
    for (let entry = 0; entry < entries; entry += 1, at += 4) {
      this.append(words[at]!, words[at + 1]!, words[at + 2]!, words[at + 3]! >>> 16);
    }
    this.tableLow = low;
    this.tableHigh = high;
    this.tableBytes = bytes;
  }

  private copyTable(low: number, high: number, bytes: number): Uint32Array {
    const copy = new Uint8Array(bytes);
    this.memory.read(low, high, copy);
    return new Uint32Array(copy.buffer);
  }

  private append(low: number, high: number, bytes: number, flags: number): void {
    const index = this.count;
    if (bytes === 0) throw new VirtqueueError('descriptor-empty', { index });
    if (!this.memory.contains(low, high, bytes))
      throw new VirtqueueError('descriptor-outside-memory', { index });
    if ((flags & PACKED_FLAG.WRITE) !== 0) {
      this.writableBytes += bytes;
    } else {
      // virtio 1.2 §2.8.17: device-readable elements come before device-writable ones.
      if (this.readable !== index) throw new VirtqueueError('readable-after-writable', { index });
      this.readable = index + 1;
      this.readableBytes += bytes;
    }
    // Trusted from here: this buffer is mapped guest memory.
    this.low[index] = low;
    this.high[index] = high;
    this.length[index] = bytes;
    this.count = index + 1;
  }
}
