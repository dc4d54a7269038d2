/**
 * Neighbouring pieces of a range, each from one layer: what `ExtentMap.resolve` fills.
 *
 * Made once and used again and again: run `i` (below `count`) has `slots[i]` and `lengths[i]` in bytes. When there are
 * more runs than fit, `coveredBytes` is less than what was asked for; ask again for the rest.
 */
export class ExtentRuns {
  count = 0;
  coveredBytes = 0;
  /** 0: no layer has it, it reads as zeroes; n: layer n of the chain, the bottom one being 1. */
  readonly slots: Uint16Array;
  /** In bytes. */
  readonly lengths: Float64Array;

  constructor(capacity = 64) {
    this.slots = new Uint16Array(capacity);
    this.lengths = new Float64Array(capacity);
  }

  clear(): void {
    this.count = 0;
    this.coveredBytes = 0;
  }

  /** Adds a piece at the end, to the last run where the layer is the same; false when there is no room. */
  append(slot: number, lengthBytes: number): boolean {
    const { count } = this;
    if (count > 0 && this.slots[count - 1] === slot) {
      this.lengths[count - 1]! += lengthBytes;
    } else {
      if (count === this.slots.length) return false;
      this.slots[count] = slot;
      this.lengths[count] = lengthBytes;
      this.count = count + 1;
    }
    this.coveredBytes += lengthBytes;
    return true;
  }
}
