import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import type { CoalesceOptions, VolumeStore } from '@cairn/storage';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Coalescing } from './coalescing.js';

afterEach(() => void vi.restoreAllMocks());

/** A pool whose coalescer does this, and the background work over it. */
function coalescingOf(run: (options: CoalesceOptions) => Promise<void>, intervalMs = 60_000) {
  // Only what the background work calls.
  const pool = { coalescer: { run } } as unknown as Pick<VolumeStore, 'coalescer'>;
  return new Coalescing(pool, { bytesPerSecond: 1, requestsInFlight: () => 0, intervalMs });
}

describe('Coalescing', () => {
  it('runs once more for what was deleted during a turn, and never twice at once', async () => {
    let running = 0;
    let turns = 0;
    const work = coalescingOf(async () => {
      running += 1;
      expect(running).toBe(1);
      await sleep(5);
      running -= 1;
      turns += 1;
    });
    work.start();
    await sleep(1);
    work.start();
    work.start();
    await vi.waitFor(() => expect(turns).toBe(2));
    await sleep(20);
    expect(turns).toBe(2);
    await work.stop();
  });

  it('tries again by itself', async () => {
    let turns = 0;
    const work = coalescingOf(async () => void (turns += 1), 1);
    work.start();
    await vi.waitFor(() => expect(turns).toBeGreaterThan(2));
    await work.stop();
  });

  it('stops what runs and begins nothing more', async () => {
    let turns = 0;
    const work = coalescingOf(async ({ signal }) => {
      turns += 1;
      await new Promise((resolve) => signal?.addEventListener('abort', resolve));
    });
    work.start();
    await work.stop();
    work.start();
    await sleep(5);
    expect(turns).toBe(1);
  });

  it('logs an outage once when it begins and once when it ends', async () => {
    const warn = vi.spyOn(Logger.prototype, 'warn').mockReturnValue();
    const log = vi.spyOn(Logger.prototype, 'log').mockReturnValue();
    let turns = 0;
    const work = coalescingOf(async () => {
      turns += 1;
      if (turns <= 3) throw new Error('the disk is away');
    }, 1);
    work.start();
    await vi.waitFor(() => expect(turns).toBeGreaterThan(5));
    await work.stop();
    expect(warn.mock.calls).toEqual([['deleted bytes are not given back now: the disk is away']]);
    expect(log.mock.calls).toEqual([['deleted bytes are given back again']]);
  });
});
