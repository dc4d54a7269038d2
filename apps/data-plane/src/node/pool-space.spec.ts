import { Logger } from '@nestjs/common';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { isLowOnSpace, PoolSpaceWatch } from './pool-space.js';

const capacityOf = (freeBytes: number) => ({ totalBytes: 1000, freeBytes, provisionedBytes: 0 });

describe('the free space of a pool', () => {
  afterEach(() => vi.restoreAllMocks());

  it.each([
    [100, 10, false],
    [99, 10, true],
    [0, 10, true],
    [0, 0, false],
  ])('with %i of 1000 bytes free and a limit of %i %% is low: %s', (free, percent, low) => {
    expect(isLowOnSpace(capacityOf(free), percent)).toBe(low);
  });

  it('is told once when it becomes low, and once when it is not any more', async () => {
    const warn = vi.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
    const log = vi.spyOn(Logger.prototype, 'log').mockImplementation(() => undefined);
    let free = 500;
    const capacity = async () => {
      if (free < 0) throw new Error('EIO');
      return capacityOf(free);
    };
    const watch = new PoolSpaceWatch(
      { poolId: 'pool-0123456789abcdef', capacity },
      { lowPercent: 10, intervalMs: 1 },
    );
    for (const now of [500, 99, 50, -1, 300, 400]) {
      free = now;
      await watch.look();
    }
    expect(warn.mock.calls.map(([line]) => String(line))).toEqual([
      expect.stringContaining('pool-0123456789abcdef has 99 of 1000 bytes free, less than 10 %'),
    ]);
    expect(log.mock.calls.map(([line]) => String(line))).toEqual([
      expect.stringContaining('has 300 of 1000'),
    ]);
  });
});
