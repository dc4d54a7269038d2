/** A repeatable source of choices: the same seed makes the same ones. */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** An integer of 32 bits (mulberry32's mixing). */
  u32(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  /** An integer of at least 0 and less than `limit`. */
  below(limit: number): number {
    return Math.floor((this.u32() / 2 ** 32) * limit);
  }

  chance(probability: number): boolean {
    return this.u32() / 2 ** 32 < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  bytes(lengthBytes: number): Buffer {
    const out = Buffer.alloc(Math.ceil(lengthBytes / 4) * 4);
    for (let at = 0; at < out.length; at += 4) out.writeUInt32LE(this.u32(), at);
    return out.subarray(0, lengthBytes);
  }

  /** Lengths that cut `total` into up to `most` pieces. */
  cuts(total: number, most: number): number[] {
    const pieces: number[] = [];
    let left = total;
    for (let i = 1; i < most && left > 1; i++) {
      const piece = 1 + this.below(left - 1);
      pieces.push(piece);
      left -= piece;
    }
    return left > 0 ? [...pieces, left] : pieces;
  }
}
