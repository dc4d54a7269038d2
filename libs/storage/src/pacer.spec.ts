import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Pacer, type PacerOptions } from './pacer.js';

const MIB = 2 ** 20;

const clock = vi.hoisted(() => ({ nowMs: 0 }));
vi.mock('node:timers/promises', () => ({
  setTimeout: async (millis: number) => void (clock.nowMs += millis),
  setImmediate: async () => undefined,
}));

describe('a pacer', () => {
  beforeEach(() => void vi.spyOn(performance, 'now').mockImplementation(() => clock.nowMs));
  afterEach(() => void vi.restoreAllMocks());

  /** How long so many pieces of 10 ms take altogether, rests included. */
  const timeOf = async (pieces: number, options: Partial<PacerOptions>, bytes = 0): Promise<number> => {
    const pacer = new Pacer({ isOver: () => false, ...options });
    const began = performance.now();
    for (let i = 0; i < pieces; i += 1) {
      await pacer.piece(async () => {
        await sleep(10);
        return bytes;
      });
    }
    return performance.now() - began;
  };

  it('does not rest while no guest waits', async () => {
    expect(await timeOf(5, {})).toBe(50);
    expect(await timeOf(5, { requestsInFlight: () => 0 })).toBe(50);
    // Two counters are not read at one moment.
    expect(await timeOf(5, { requestsInFlight: () => -3 })).toBe(50);
  });

  it('rests as many times as long as it worked as there are requests in flight', async () => {
    expect(await timeOf(5, { requestsInFlight: () => 1 })).toBe(100);
    expect(await timeOf(5, { requestsInFlight: () => 4 })).toBe(250);
  });

  it('goes on for a sixteenth of the time, however many there are', async () => {
    expect(await timeOf(5, { requestsInFlight: () => 1000 })).toBe(800);
  });

  it('keeps to the rate', async () => {
    expect(await timeOf(8, { bytesPerSecond: 8 * MIB }, MIB)).toBe(1000);
    expect(await timeOf(8, { bytesPerSecond: 8 * MIB, requestsInFlight: () => 1000 }, MIB)).toBe(1280);
  });

  it('takes rests together that are shorter than a timer', async () => {
    const pacer = new Pacer({ isOver: () => false, bytesPerSecond: 4 * MIB });
    const began = performance.now();
    // A thousand pieces of 1 KiB, at 4 MiB/s each a quarter of a millisecond.
    for (let i = 0; i < 1024; i += 1) await pacer.piece(async () => 1024);
    expect(performance.now() - began).toBeCloseTo(250, -1);
  });

  it('ends its rest soon when it must', async () => {
    const began = performance.now();
    const pacer = new Pacer({ isOver: () => performance.now() - began > 100, bytesPerSecond: MIB });
    await pacer.piece(async () => 60 * MIB);
    expect(performance.now() - began).toBeLessThan(150);
  });

  it('tells what a piece failed of', async () => {
    const pacer = new Pacer({ isOver: () => false });
    const piece = pacer.piece(() => Promise.reject(new Error('the disk is away')));
    await expect(piece).rejects.toThrow('the disk is away');
  });
});
