import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { KeyedQueue } from './keyed-queue.js';

describe('KeyedQueue', () => {
  it('runs the tasks of one key in the order they came', async () => {
    const queue = new KeyedQueue();
    const steps: string[] = [];
    const task = (name: string, ms: number) =>
      queue.run('a', async () => {
        steps.push(`${name} begins`);
        await sleep(ms);
        steps.push(`${name} ends`);
      });
    await Promise.all([task('first', 10), task('second', 1)]);
    expect(steps).toEqual(['first begins', 'first ends', 'second begins', 'second ends']);
  });

  it('runs tasks of different keys at once', async () => {
    const queue = new KeyedQueue();
    let meet: () => void = () => undefined;
    const met = new Promise<void>((resolve) => (meet = resolve));
    await Promise.all([queue.run('a', () => met), queue.run('b', async () => meet())]);
  });

  it('goes on after a task that failed, and gives its error to its own caller only', async () => {
    const queue = new KeyedQueue();
    const failing = queue.run('a', async () => {
      throw new Error('no');
    });
    const next = queue.run('a', async () => 'done');
    await expect(failing).rejects.toThrow('no');
    expect(await next).toBe('done');
  });
});
