import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { aheadOf, inParallel } from './in-parallel.js';

async function* numbers(count: number) {
  for (let i = 0; i < count; i += 1) yield i;
}

describe('inParallel', () => {
  it('does everything, never more than the limit at once', async () => {
    const done: number[] = [];
    let running = 0;
    let most = 0;
    await inParallel(numbers(20), 4, async (i) => {
      running += 1;
      most = Math.max(most, running);
      await sleep(i % 3);
      running -= 1;
      done.push(i);
    });
    expect(done.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect(most).toBe(4);
  });

  it('begins nothing more after a failure, and waits for what had begun', async () => {
    const done: number[] = [];
    const work = inParallel(numbers(100), 2, async (i) => {
      if (i === 3) throw new Error('three');
      await sleep(5);
      done.push(i);
    });
    await expect(work).rejects.toThrow('three');
    const before = done.length;
    expect(before).toBeLessThan(5);
    await sleep(20);
    expect(done).toHaveLength(before);
  });
});

describe('aheadOf', () => {
  it('gives the results in order, whichever is first', async () => {
    const results: number[] = [];
    for await (const i of aheadOf(numbers(10), 4, async (n) => sleep((10 - n) % 4, n))) results.push(i);
    expect(results).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it('throws a failure in its turn', async () => {
    const results: number[] = [];
    const all = async () => {
      const fail = async (n: number) => {
        if (n === 2) throw new Error('two');
        return n;
      };
      for await (const i of aheadOf(numbers(5), 4, fail)) results.push(i);
    };
    await expect(all()).rejects.toThrow('two');
    expect(results).toEqual([0, 1]);
  });
});
