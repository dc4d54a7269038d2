import type { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { Random } from './random.js';

const BLOCK = 4096;

/**
 * A guest that keeps so many requests in flight, over all queues of its disk, and verifies every byte that it reads. Each
 * writer has blocks of its own, so that it knows what they hold.
 */
export class RingLoad {
  /** Requests that have completed. */
  completed = 0;
  /** The longest time in which none completed, since `forgetPause`, in ms. */
  longestPauseMs = 0;
  private readonly values: number[];
  private readonly writers: Promise<void>[];
  private lastAt = performance.now();
  private on = true;

  constructor(
    private readonly disk: FakeBlkDisk,
    private readonly options: { blocks: number; depth: number; seed: number },
  ) {
    const { blocks, depth, seed } = options;
    this.values = Array.from({ length: blocks }, () => 0);
    this.writers = Array.from({ length: depth }, (_, writer) =>
      this.write(writer, new Random(seed * 1000 + writer)),
    );
    for (const writer of this.writers) writer.catch(() => (this.on = false));
  }

  forgetPause(): void {
    this.longestPauseMs = 0;
    this.lastAt = performance.now();
  }

  /** Resolves after so many more requests. */
  async advance(requests: number): Promise<void> {
    const goal = this.completed + requests;
    while (this.completed < goal && this.on) await new Promise((resolve) => setTimeout(resolve, 2));
    if (!this.on) await Promise.all(this.writers);
  }

  /** Ends it. Throws what went wrong; `matches` then tells whether a file is what it must be. */
  async finish(): Promise<void> {
    this.on = false;
    await Promise.all(this.writers);
    await this.disk.flush();
  }

  /** Numbers of the blocks that are not what was written to them last. */
  differences(content: Buffer): number[] {
    return this.values.flatMap((value, block) =>
      content.subarray(block * BLOCK, (block + 1) * BLOCK).equals(blockOf(block, value)) ? [] : [block],
    );
  }

  private async write(writer: number, random: Random): Promise<void> {
    const { blocks, depth } = this.options;
    const queue = writer % this.disk.queues.length;
    while (this.on) {
      const block = writer + depth * random.below(Math.floor(blocks / depth));
      if (random.chance(0.4)) {
        const value = random.below(0x7fffffff) + 1;
        await this.disk.write(block * BLOCK, blockOf(block, value), { queue });
        this.values[block] = value;
      } else {
        const got = Buffer.from(await this.disk.read(block * BLOCK, BLOCK, { queue }));
        if (!got.equals(blockOf(block, this.values[block]!))) throw new Error(`block ${block} is wrong`);
      }
      this.count();
    }
  }

  private count(): void {
    const now = performance.now();
    this.longestPauseMs = Math.max(this.longestPauseMs, now - this.lastAt);
    this.lastAt = now;
    this.completed += 1;
  }
}

/** What a block holds: zeroes, or its number and a value all over. */
const blockOf = (block: number, value: number): Buffer => {
  const bytes = Buffer.alloc(BLOCK);
  if (value === 0) return bytes;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, BLOCK / 4);
  for (let at = 0; at < words.length; at += 2) {
    words[at] = block;
    words[at + 1] = value;
  }
  return bytes;
};
