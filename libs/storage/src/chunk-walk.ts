import { check, native } from '@cairn/native';
import { walkZeroes } from './extents.js';
import { BLOCK_BYTES, type LayerFile } from './layer-format.js';

const ENXIO = -6;
const UNDECIDED = -1;

/** What a walk goes through. */
export interface WalkRange {
  /** The bottom layer first. */
  layers: readonly LayerFile[];
  /** How many of them count, from the bottom. */
  count: number;
  /** In bytes of the volume, at a block; `lengthBytes` is what the walk was made for at most. */
  offsetBytes: number;
  lengthBytes: number;
}

/**
 * Asks the files which layer has each block of a range: the topmost first, until every block is decided. It can be done
 * in steps, so that a thread with other work is never held for long by a range of many small extents.
 */
export class ChunkWalk {
  /** The slot of each block of the range; those that are asked for before the walk is done may be negative. */
  readonly answers: Int32Array;
  private range: WalkRange = { layers: [], count: 0, offsetBytes: 0, lengthBytes: 0 };
  private blocks = 0;
  private open = 0;
  private slot = 0;
  private at = 0;

  constructor(maxBytes: number) {
    this.answers = new Int32Array(maxBytes / BLOCK_BYTES);
  }

  begin(range: WalkRange): void {
    this.range = range;
    this.blocks = Math.ceil(range.lengthBytes / BLOCK_BYTES);
    this.open = this.blocks;
    this.slot = range.count;
    this.at = range.offsetBytes;
    this.answers.fill(UNDECIDED, 0, this.blocks);
  }

  /** Looks at so many extents at most; true when every block is decided. Throws SystemError, and must begin again then. */
  step(extents = Infinity): boolean {
    const { range } = this;
    const end = range.offsetBytes + range.lengthBytes;
    for (let left = extents; this.open > 0 && this.slot > 0; left -= 1) {
      if (left <= 0) return false;
      const layer = range.layers[this.slot - 1]!;
      if (this.walkExtent(layer, Math.min(end, layer.sizeBytes))) continue;
      if (this.open > 0) {
        walkZeroes(layer, range.offsetBytes, end, (from, to) => {
          this.decide(from, Math.min(to, end) - from, 0);
          return this.open > 0;
        });
      }
      this.slot -= 1;
      this.at = range.offsetBytes;
    }
    if (this.open > 0) {
      for (let i = 0; i < this.blocks; i += 1) if (this.answers[i] === UNDECIDED) this.answers[i] = 0;
      this.open = 0;
    }
    return true;
  }

  /** A change of this part of the range has completed while it was walked: its blocks have this answer. */
  override(offsetBytes: number, lengthBytes: number, answer: number): void {
    const { range } = this;
    const from = Math.max(offsetBytes, range.offsetBytes);
    const to = Math.min(offsetBytes + lengthBytes, range.offsetBytes + range.lengthBytes);
    for (let i = this.blockOf(from); range.offsetBytes + i * BLOCK_BYTES < to; i += 1) {
      if (this.answers[i] === UNDECIDED) this.open -= 1;
      this.answers[i] = answer;
    }
  }

  /** Takes one extent of data; false when the layer has no more in the range. */
  private walkExtent({ fd }: LayerFile, limit: number): boolean {
    if (this.at >= limit) return false;
    const data = native.seekData(fd, this.at);
    if (data === ENXIO || check('seekData', data) >= limit) return false;
    const hole = Math.min(check('seekHole', native.seekHole(fd, data)), limit);
    const first = Math.max(this.at, data - (data % BLOCK_BYTES));
    const last = Math.min(Math.ceil(hole / BLOCK_BYTES) * BLOCK_BYTES, limit);
    this.decide(first, last - first, this.slot);
    this.at = last;
    return true;
  }

  private decide(offsetBytes: number, lengthBytes: number, answer: number): void {
    const end = this.range.offsetBytes + this.range.lengthBytes;
    const stop = Math.min(offsetBytes + lengthBytes, end);
    for (let i = this.blockOf(offsetBytes); this.range.offsetBytes + i * BLOCK_BYTES < stop; i += 1) {
      if (this.answers[i] !== UNDECIDED) continue;
      this.answers[i] = answer;
      this.open -= 1;
    }
  }

  private blockOf(offsetBytes: number): number {
    return Math.floor((offsetBytes - this.range.offsetBytes) / BLOCK_BYTES);
  }
}
