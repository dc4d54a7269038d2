import { describe, expect, it } from 'vitest';
import { NO_LIMITS, RateLimiter, type RateLimits } from './rate-limiter.js';

const SECOND = 1_000_000;

const limiterOf = (limits: Partial<RateLimits>, now = 0) => {
  const limiter = new RateLimiter(new SharedArrayBuffer(RateLimiter.BYTES), 0);
  limiter.configure({ ...NO_LIMITS, ...limits }, now);
  return limiter;
};
/** How many requests go at this moment. */
const burst = (limiter: RateLimiter, now: number, bytes = 0) => {
  let count = 0;
  while (count < 100_000 && limiter.take(bytes, now) === 0) count += 1;
  return count;
};

describe('a rate limit', () => {
  it('lets a second’s worth go at once, then so many a second', () => {
    const limiter = limiterOf({ iops: 10 });
    expect(burst(limiter, 0)).toBe(10);
    expect(limiter.take(0, 0)).toBe(100_000);
    expect(limiter.take(0, 99_999)).toBe(1);
    expect(limiter.take(0, 100_000)).toBe(0);
    expect(burst(limiter, 60 * SECOND)).toBe(10);
  });

  it('lets a burst of its own size go', () => {
    expect(burst(limiterOf({ iops: 10, iopsBurst: 300 }), 0)).toBe(300);
  });

  it('lets a request larger than the burst go, which is paid for afterwards', () => {
    const limiter = limiterOf({ bytesPerSecond: 1000 });
    expect(limiter.take(5000, 0)).toBe(0);
    expect(limiter.balance.bytes).toBe(-4000);
    expect(limiter.take(1, 0)).toBe(200_000); // a wait is bounded; then it asks again
    expect(limiter.take(1, 3.9 * SECOND)).toBeGreaterThan(0);
    expect(limiter.take(1, 4.1 * SECOND)).toBe(0);
  });

  it('goes on after 36 idle minutes and more, when the clock looks as if it ran back', () => {
    for (const minutes of [35, 36, 40, 60, 71]) {
      const limiter = limiterOf({ iops: 10 });
      burst(limiter, 0);
      expect([minutes, burst(limiter, (minutes * 60 * SECOND) | 0)]).toEqual([minutes, 10]);
    }
  });

  it('is not misled by a thread whose clock is a little behind', () => {
    const limiter = limiterOf({ iops: 10 });
    burst(limiter, 0);
    expect(limiter.take(0, 50_000)).toBeGreaterThan(0);
    expect(limiter.take(0, 49_000)).toBeGreaterThan(0);
    expect(burst(limiter, 100_000)).toBe(1);
  });

  it('changes while it is used, and keeps what it holds up to the new burst', () => {
    const limiter = limiterOf({ iops: 100 });
    limiter.configure({ ...NO_LIMITS, iops: 10 }, 0);
    expect(burst(limiter, 0)).toBe(10);
    limiter.configure({ ...NO_LIMITS, iops: 1000 }, 0);
    expect(limiter.take(0, 0)).toBe(1000);
    limiter.configure(NO_LIMITS, 0);
    expect(limiter.active).toBe(false);
  });
});
