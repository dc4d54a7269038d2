import { ChunkWalk, type WalkRange } from './chunk-walk.js';
import { ExtentRuns } from './extent-runs.js';
import { BLOCK_BYTES, type LayerFile } from './layer-format.js';

// Which layer of a chain holds a block: the answers of the file system, kept for as long as there is room.
//
// The volume is cut into chunks of 4 MiB. A chunk is looked up when it is first touched: the extents of each layer,
// the head's first. What is kept of it is one number when the whole chunk has one answer, else one byte a block (two
// when the chain is longer than 254). Dropping a chunk is always right, as the files can be asked again; so memory is
// bounded by choice, and nothing of this is ever written down.
//
//   directory[chunk]   0 not known · -(slot + 1) one answer for the whole chunk · n + 1 block answers in slab n

/** The volume space that is looked up at once. */
export const CHUNK_BYTES = 4 * 1024 * 1024;

const BLOCKS = CHUNK_BYTES / BLOCK_BYTES;
const SEGMENT_SLABS = 256;
const NARROW_SLOTS = 255;
const WIDE_SLOTS = 65_535;
const UNDECIDED = -1;
const DEFAULT_MAX_BYTES = 64 * 1024 * 1024;

export interface ExtentMapOptions {
  /** The chain, the bottom layer first and the head last. */
  layers: readonly LayerFile[];
  sizeBytes: number;
  /** Bytes that block answers may take; 4 more a chunk of the volume (1 MiB a TiB) are taken when they are touched. */
  maxBytes?: number;
}

/**
 * Answers which layer holds a block, in time that does not depend on how long the chain is.
 *
 * For one thread. `resolve` allocates nothing, and makes system calls only when it first touches a chunk. Whoever
 * changes the head must say so: `markHead` after a completed write, `markZeroes` after a completed discard, `forget`
 * when either failed half-way. Slots: 0 reads as zeroes, n is the layer n of the chain, the bottom one being 1; a new
 * head does not change the numbers of the others.
 */
export class ExtentMap {
  private layers: LayerFile[] = [];
  private directory: Int32Array;
  private size: number;
  private readonly maxBytes: number;
  private segments: (Uint8Array | Uint16Array)[] = [];
  private owners = new Int32Array(0);
  private recent = new Uint8Array(0);
  private slabs = 0;
  private hand = 0;
  private readonly walk = new ChunkWalk(CHUNK_BYTES);
  /** A look-up in steps, and the chunk that it is of; UNDECIDED when none is under way. */
  private readonly stepped = new ChunkWalk(CHUNK_BYTES);
  private steppedChunk = UNDECIDED;

  constructor({ layers, sizeBytes, maxBytes = DEFAULT_MAX_BYTES }: ExtentMapOptions) {
    this.size = sizeBytes;
    this.maxBytes = maxBytes;
    this.directory = new Int32Array(Math.ceil(sizeBytes / CHUNK_BYTES));
    this.replaceLayers(layers);
  }

  get sizeBytes(): number {
    return this.size;
  }

  /** The slot of the head. */
  get headSlot(): number {
    return this.layers.length;
  }

  /** Bytes that block answers take now. */
  get memoryBytes(): number {
    return this.segments.reduce((sum, segment) => sum + segment.byteLength, 0);
  }

  /** The layer of a slot that `resolve` answered. */
  layer(slot: number): LayerFile {
    return this.layers[slot - 1]!;
  }

  /**
   * Splits a range of the volume into runs of one layer each; returns how many.
   *
   * The range lies inside the volume and may begin and end within a block. Throws SystemError when the file system
   * cannot tell; nothing is kept then, and the request fails.
   */
  resolve(offsetBytes: number, lengthBytes: number, out: ExtentRuns): number {
    out.clear();
    const end = offsetBytes + lengthBytes;
    let at = offsetBytes;
    while (at < end) {
      const chunk = Math.floor(at / CHUNK_BYTES);
      const start = chunk * CHUNK_BYTES;
      const stop = Math.min(end, start + CHUNK_BYTES);
      let entry = this.directory[chunk]!;
      if (entry === 0) entry = this.lookUp(chunk);
      if (entry < 0) {
        if (!out.append(-entry - 1, stop - at)) return out.count;
        at = stop;
        continue;
      }
      const slab = entry - 1;
      this.recent[slab] = 1;
      const segment = this.segments[slab >>> 8]!;
      const base = (slab & (SEGMENT_SLABS - 1)) * BLOCKS;
      while (at < stop) {
        const block = Math.floor((at - start) / BLOCK_BYTES);
        const slot = segment[base + block]!;
        let last = block + 1;
        while (start + last * BLOCK_BYTES < stop && segment[base + last] === slot) last += 1;
        const next = Math.min(stop, start + last * BLOCK_BYTES);
        if (!out.append(slot, next - at)) return out.count;
        at = next;
      }
    }
    return out.count;
  }

  /** The first offset of a range that `resolve` would have to ask the files about; undefined when it would not. */
  firstUnknown(offsetBytes: number, lengthBytes: number): number | undefined {
    const last = Math.floor((offsetBytes + lengthBytes - 1) / CHUNK_BYTES);
    for (let chunk = Math.floor(offsetBytes / CHUNK_BYTES); chunk <= last; chunk += 1) {
      if (this.directory[chunk] === 0) return Math.max(offsetBytes, chunk * CHUNK_BYTES);
    }
    return undefined;
  }

  /**
   * Looks up what is around an offset, at most so many extents of it now; true when it is known. One place at a time: a
   * call for another chunk gives the one before up. Throws as `resolve`.
   */
  lookUpStep(offsetBytes: number, extents: number): boolean {
    const chunk = Math.floor(offsetBytes / CHUNK_BYTES);
    if (this.directory[chunk] !== 0) return true;
    if (this.steppedChunk !== chunk) {
      this.stepped.begin(this.rangeOf(chunk, this.layers.length));
      this.steppedChunk = chunk;
    }
    try {
      if (!this.stepped.step(extents)) return false;
    } catch (error) {
      this.steppedChunk = UNDECIDED;
      throw error;
    }
    this.steppedChunk = UNDECIDED;
    this.keep(chunk, this.stepped.answers);
    return true;
  }

  /** Begins to ask who had the blocks of a range, within one chunk, had the head nothing there; see `resolveBelow`. */
  beginBelow(walk: ChunkWalk, offsetBytes: number, lengthBytes: number): void {
    walk.begin({ layers: this.layers, count: this.layers.length - 1, offsetBytes, lengthBytes });
  }

  /** The slot of the block at an offset. Throws as `resolve`. */
  slotAt(offsetBytes: number): number {
    const chunk = Math.floor(offsetBytes / CHUNK_BYTES);
    let entry = this.directory[chunk]!;
    if (entry === 0) entry = this.lookUp(chunk);
    if (entry < 0) return -entry - 1;
    const slab = entry - 1;
    this.recent[slab] = 1;
    const block = Math.floor((offsetBytes - chunk * CHUNK_BYTES) / BLOCK_BYTES);
    return this.segments[slab >>> 8]![(slab & (SEGMENT_SLABS - 1)) * BLOCKS + block]!;
  }

  /**
   * Like `resolve`, of the chain without its head: what would be read had the head nothing there.
   *
   * Asks the files each time, for as many chunks as the range has: meant for discards, in steps.
   */
  resolveBelow(offsetBytes: number, lengthBytes: number, out: ExtentRuns): number {
    out.clear();
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end;) {
      const chunk = Math.floor(at / CHUNK_BYTES);
      const start = chunk * CHUNK_BYTES;
      const stop = Math.min(end, start + CHUNK_BYTES);
      this.walk.begin(this.rangeOf(chunk, this.layers.length - 1));
      this.walk.step();
      while (at < stop) {
        const block = Math.floor((at - start) / BLOCK_BYTES);
        const next = Math.min(stop, start + (block + 1) * BLOCK_BYTES);
        if (!out.append(this.walk.answers[block]!, next - at)) return out.count;
        at = next;
      }
    }
    return out.count;
  }

  /** A write of this range into the head has completed; the blocks at its ends, too, are now whole in the head. */
  markHead(offsetBytes: number, lengthBytes: number): void {
    this.mark(offsetBytes, lengthBytes, this.layers.length);
  }

  /** A discard of this range has completed: its blocks read as zeroes. It begins and ends at a block. */
  markZeroes(offsetBytes: number, lengthBytes: number): void {
    this.mark(offsetBytes, lengthBytes, 0);
  }

  /** Nothing is known of this range any more, as after a write that failed: the files are asked again. */
  forget(offsetBytes: number, lengthBytes: number): void {
    const last = Math.floor((offsetBytes + lengthBytes - 1) / CHUNK_BYTES);
    for (let chunk = Math.floor(offsetBytes / CHUNK_BYTES); chunk <= last; chunk += 1) {
      if (chunk === this.steppedChunk) this.steppedChunk = UNDECIDED;
      const entry = this.directory[chunk]!;
      if (entry > 0) {
        this.owners[entry - 1] = UNDECIDED;
        this.recent[entry - 1] = 0;
      }
      this.directory[chunk] = 0;
    }
  }

  /** Puts a new, empty layer on top; every answer stays right, as nothing is in it yet. */
  pushHead(layer: LayerFile): void {
    if (this.layers.length + 1 === NARROW_SLOTS) return this.replaceLayers([...this.layers, layer]);
    this.layers.push(layer);
    this.steppedChunk = UNDECIDED;
    return undefined;
  }

  /** Takes another chain, as after a layer was folded into another; everything is looked up anew. */
  replaceLayers(layers: readonly LayerFile[]): void {
    if (layers.length === 0 || layers.length >= WIDE_SLOTS) {
      throw new RangeError(`a chain has 1 to ${WIDE_SLOTS - 1} layers, not ${layers.length}`);
    }
    this.layers = [...layers];
    this.steppedChunk = UNDECIDED;
    this.directory.fill(0);
    this.segments = [];
    this.slabs = 0;
    this.hand = 0;
    const most = Math.min(Math.floor(this.maxBytes / (BLOCKS * this.width)), this.directory.length);
    this.owners = new Int32Array(Math.max(1, most)).fill(UNDECIDED);
    this.recent = new Uint8Array(this.owners.length);
  }

  /** The volume, whose head has grown before, has more blocks now. Throws RangeError when they would be fewer. */
  grow(sizeBytes: number, head: LayerFile): void {
    if (sizeBytes < this.size) throw new RangeError(`${sizeBytes} bytes are less than ${this.size}`);
    this.size = sizeBytes;
    this.directory = new Int32Array(Math.ceil(sizeBytes / CHUNK_BYTES));
    this.replaceLayers([...this.layers.slice(0, -1), head]);
  }

  private get width(): number {
    return this.layers.length >= NARROW_SLOTS ? 2 : 1;
  }

  private mark(offsetBytes: number, lengthBytes: number, slot: number): void {
    const end = offsetBytes + lengthBytes;
    // The look-up may have passed there before.
    if (this.steppedChunk !== UNDECIDED) this.stepped.override(offsetBytes, lengthBytes, slot);
    for (let at = offsetBytes; at < end;) {
      const chunk = Math.floor(at / CHUNK_BYTES);
      const start = chunk * CHUNK_BYTES;
      const stop = Math.min(end, start + CHUNK_BYTES);
      const entry = this.directory[chunk]!;
      // What is not known is asked of the files when it is next touched; they have it already.
      if (entry !== 0 && entry !== -slot - 1) {
        const first = Math.floor((at - start) / BLOCK_BYTES);
        const last = Math.ceil((stop - start) / BLOCK_BYTES);
        if (first === 0 && (last === BLOCKS || stop === this.size)) {
          this.forget(start, 1);
          this.directory[chunk] = -slot - 1;
        } else {
          const slab = entry > 0 ? entry - 1 : this.split(chunk, -entry - 1);
          const base = (slab & (SEGMENT_SLABS - 1)) * BLOCKS;
          this.segments[slab >>> 8]!.fill(slot, base + first, base + last);
        }
      }
      at = stop;
    }
  }

  /** Gives a chunk with one answer a slab of block answers. */
  private split(chunk: number, slot: number): number {
    const slab = this.takeSlab(chunk);
    const base = (slab & (SEGMENT_SLABS - 1)) * BLOCKS;
    this.segments[slab >>> 8]!.fill(slot, base, base + BLOCKS);
    return slab;
  }

  private lookUp(chunk: number): number {
    this.walk.begin(this.rangeOf(chunk, this.layers.length));
    this.walk.step();
    return this.keep(chunk, this.walk.answers);
  }

  /** Keeps what a walk found; the answer is the chunk's entry. */
  private keep(chunk: number, answers: Int32Array): number {
    const blocks = Math.min(BLOCKS, Math.ceil((this.size - chunk * CHUNK_BYTES) / BLOCK_BYTES));
    const first = answers[0]!;
    let same = 1;
    while (same < blocks && answers[same] === first) same += 1;
    if (same === blocks) return (this.directory[chunk] = -first - 1);
    const slab = this.takeSlab(chunk);
    const base = (slab & (SEGMENT_SLABS - 1)) * BLOCKS;
    this.segments[slab >>> 8]!.set(answers, base);
    return slab + 1;
  }

  private rangeOf(chunk: number, count: number): WalkRange {
    const offsetBytes = chunk * CHUNK_BYTES;
    const lengthBytes = Math.min(CHUNK_BYTES, this.size - offsetBytes);
    return { layers: this.layers, count, offsetBytes, lengthBytes };
  }

  /** A slab for a chunk: a new one while there is room, else that of a chunk not touched for a while. */
  private takeSlab(chunk: number): number {
    let slab = this.slabs;
    if (slab < this.owners.length) {
      this.slabs += 1;
      if ((slab & (SEGMENT_SLABS - 1)) === 0) {
        const blocks = Math.min(SEGMENT_SLABS, this.owners.length - slab) * BLOCKS;
        this.segments.push(this.width === 1 ? new Uint8Array(blocks) : new Uint16Array(blocks));
      }
    } else {
      while (this.recent[this.hand] === 1) {
        this.recent[this.hand] = 0;
        this.hand = (this.hand + 1) % this.owners.length;
      }
      slab = this.hand;
      this.hand = (this.hand + 1) % this.owners.length;
      const owner = this.owners[slab]!;
      if (owner >= 0) this.directory[owner] = 0;
    }
    this.owners[slab] = chunk;
    this.recent[slab] = 1;
    this.directory[chunk] = slab + 1;
    return slab;
  }
}
