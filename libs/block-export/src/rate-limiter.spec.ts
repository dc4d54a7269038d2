import { describe, expect, it } from 'vitest';
import { RateLimiter, RateTurn } from './rate-limiter.js';
import { NO_LIMITS, type RateLimits, rateLimitsOf } from './rate-limits.js';

const SECOND = 1_000_000;

const limiterOf = (limits: Partial<RateLimits>, now = 0) => {
  const limiter = new RateLimiter(new SharedArrayBuffer(RateLimiter.BYTES), 0);
  limiter.configure(rateLimitsOf(limits), now);
  return limiter;
};

/** A ring that always has a request ready, on a clock that a test moves. */
class Ring {
  readonly turn = new RateTurn();
  wakeAt: number;
  done = 0;
  doneBytes = 0;
  constructor(
    private readonly limiter: RateLimiter,
    private readonly bytes: () => number = () => 0,
    start = 0,
  ) {
    this.wakeAt = start;
  }

  private next = this.bytes();

  /** Sends what may go at this moment, as a reactor does when the ring's timer is due. */
  poll(now: number): void {
    if (now < this.wakeAt) return;
    for (let burst = 0; burst < 10_000; burst += 1) {
      const wait = this.limiter.take(this.next, now | 0, this.turn);
      if (wait > 0) {
        this.wakeAt = now + wait;
        return;
      }
      this.done += 1;
      this.doneBytes += this.next;
      this.next = this.bytes();
    }
  }
}

/** Lets time pass, from timer to timer. */
const run = (rings: readonly Ring[], from: number, seconds: number, latenessMicros = 0) => {
  const end = from + seconds * SECOND;
  let now = from;
  while (now <= end) {
    for (const ring of rings) ring.poll(now);
    now = Math.max(now + 1, Math.min(...rings.map((ring) => ring.wakeAt)) + latenessMicros);
  }
};

/** Numbers that are the same in each run (mulberry32). */
const randomOf = (seed: number) => {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
};

describe('a rate limit', () => {
  it.each([1, 10, 333, 5000, 100_000])('of %d requests a second lets so many go', (iops) => {
    const ring = new Ring(limiterOf({ iops }));
    run([ring], 0, 10, 200);
    expect(ring.done).toBeGreaterThanOrEqual(iops * 10);
    expect(ring.done).toBeLessThanOrEqual(iops * 10.1 + 2);
  });

  it.each([512, 4096, 65_536, 3 * 2 ** 20])('of bytes is right for requests of %d bytes', (bytes) => {
    const ring = new Ring(limiterOf({ bytesPerSecond: 2 ** 20 }), () => bytes);
    run([ring], 0, 60, 200);
    const seconds = ring.doneBytes / 2 ** 20;
    expect(seconds).toBeGreaterThan(60 - bytes / 2 ** 20);
    expect(seconds).toBeLessThanOrEqual(60.1 + bytes / 2 ** 20);
  });

  it('lets a request larger than a bucket go, which is paid for afterwards', () => {
    const limiter = limiterOf({ bytesPerSecond: 1000 });
    const turn = new RateTurn();
    expect(limiter.take(5000, 0, turn)).toBe(0);
    expect(limiter.balance(0).bytes).toBe(-4900);
    expect(limiter.take(1, 0, turn)).toBe(100_000); // a wait is bounded; then it asks again
    expect(limiter.take(1, 4.8 * SECOND, turn)).toBeGreaterThan(0);
    expect(limiter.take(1, 4.91 * SECOND, turn)).toBe(0);
  });

  it('lets a full bucket of credits last as long as it is told, and fills it at the base rate', () => {
    const limiter = limiterOf({ iops: 100, iopsBurst: 1000, iopsBurstSeconds: 20 });
    const ring = new Ring(limiter);
    run([ring], 0, 20, 100);
    expect(ring.done / 20_000).toBeCloseTo(1, 1);
    run([ring], 20 * SECOND, 10, 100);
    expect(ring.done - 20_000).toBeGreaterThan(950);
    expect(ring.done - 20_000).toBeLessThan(1300);
    expect(limiter.balance(30 * SECOND).requests).toBeLessThan(1);
    // Idle for 90 s: 9000 credits, which last 10 s.
    const before = ring.done;
    ring.wakeAt = 120 * SECOND;
    run([ring], 120 * SECOND, 20, 100);
    expect((ring.done - before) / (10_000 + 1000)).toBeCloseTo(1, 1);
  });

  it('keeps a burst to its rate', () => {
    const ring = new Ring(limiterOf({ iops: 10, iopsBurst: 300, iopsBurstSeconds: 60 }));
    ring.poll(0);
    expect(ring.done).toBe(30);
    run([ring], 0, 1);
    expect(ring.done).toBeLessThanOrEqual(330);
  });

  it('counts a large request once for each unit of its size, if it is told to', () => {
    const limiter = limiterOf({ iops: 100, iopsUnitBytes: 262_144 });
    const ring = new Ring(limiter, () => 2 ** 20);
    run([ring], 0, 10);
    expect(ring.done).toBeGreaterThanOrEqual(250);
    expect(ring.done).toBeLessThanOrEqual(254);
  });

  it('gives rings of one volume the same, whoever comes first, and with one that wants little', () => {
    for (const iops of [10, 500, 50_000]) {
      const limiter = limiterOf({ iops });
      const rings = [new Ring(limiter), new Ring(limiter), new Ring(limiter), new Ring(limiter)];
      run(rings, 0, 20, 150);
      const shares = rings.map((ring) => ring.done / (iops * 20));
      for (const share of shares) expect(share).toBeGreaterThan(0.24);
      expect(shares.reduce((sum, share) => sum + share)).toBeLessThan(1.02);
    }
  });

  it('lets large requests pass beside small ones that would always take what comes in', () => {
    const limiter = limiterOf({ bytesPerSecond: 2 ** 20 });
    const small = new Ring(limiter, () => 4096);
    const large = new Ring(limiter, () => 2 ** 20);
    run([small, large], 0, 30);
    expect(large.done).toBeGreaterThan(20);
    expect(small.done).toBeGreaterThan(20);
  });

  it('does not wait for a ring that has stopped', () => {
    const limiter = limiterOf({ iops: 10 });
    const [stopped, ring] = [new Ring(limiter), new Ring(limiter)];
    stopped.poll(0);
    expect(limiter.balance(0).throttles).toBe(1);
    limiter.cancel(stopped.turn);
    limiter.cancel(stopped.turn);
    expect(limiter.balance(0).requests).toBe(0);
    run([ring], 0, 10);
    expect(ring.done).toBe(100);
    ring.wakeAt = 0;
    limiter.cancel(ring.turn);
    const before = limiter.balance(20 * SECOND).throttledMicros;
    expect(limiter.balance(40 * SECOND).throttledMicros).toBe(before);
  });

  it('tells for how long rings were held back, once for all of them', () => {
    const limiter = limiterOf({ iops: 10 });
    const rings = [new Ring(limiter), new Ring(limiter)];
    run(rings, 0, 10);
    const { throttledMicros } = limiter.balance(10 * SECOND);
    expect(throttledMicros / SECOND).toBeGreaterThan(9.9);
    expect(throttledMicros / SECOND).toBeLessThanOrEqual(10);
  });

  describe('over time', () => {
    it('goes on however long it was idle, when the clock looks as if it ran back', () => {
      for (const minutes of [35, 36, 40, 60, 71]) {
        const limiter = limiterOf({ iops: 10 });
        const ring = new Ring(limiter);
        ring.poll(0);
        ring.poll(minutes * 60 * SECOND);
        expect([minutes, ring.done]).toEqual([minutes, 3]);
      }
    });

    it('crosses the wrap of the clock without a pause and without a gift', () => {
      const start = 2 ** 31 - 5 * SECOND;
      const limiter = limiterOf({ iops: 100 }, start);
      const ring = new Ring(limiter, undefined, start);
      run([ring], start, 10);
      expect(ring.done).toBeGreaterThanOrEqual(1000);
      expect(ring.done).toBeLessThanOrEqual(1011);
    });

    it('is told the time while it is idle, so that a wrap is never missed', () => {
      const limiter = limiterOf({ iops: 10, iopsBurst: 11, iopsBurstSeconds: 60_000 });
      const ring = new Ring(limiter);
      run([ring], 0, 1);
      for (let minute = 1; minute <= 120; minute += 1) limiter.tick((minute * 60 * SECOND) | 0);
      expect(limiter.balance((7200 * SECOND) | 0).requests).toBeGreaterThan(60_000);
    });

    it('is not misled by a thread whose clock is behind', () => {
      const limiter = limiterOf({ iops: 10 });
      const [ring, late] = [new Ring(limiter), new Ring(limiter)];
      for (let now = 0; now <= 10 * SECOND; now += 1000) {
        ring.poll(now);
        late.poll(Math.max(0, now - 5000));
      }
      expect(ring.done + late.done).toBeGreaterThanOrEqual(99);
      expect(ring.done + late.done).toBeLessThanOrEqual(101);
    });

    it('still goes on after its clock was set back by seconds', () => {
      const limiter = limiterOf({ iops: 10 }, 8 * SECOND);
      const ring = new Ring(limiter);
      run([ring], 0, 20);
      expect(ring.done).toBeGreaterThan(110);
      expect(ring.done).toBeLessThan(205);
    });
  });

  describe('that changes', () => {
    it('is felt when the next wait ends, raised or lowered or taken away', () => {
      for (const [from, to] of [
        [10, 1000],
        [1000, 10],
        [100_000, 10],
      ] as const) {
        const limiter = limiterOf({ iops: from });
        const rings = [new Ring(limiter), new Ring(limiter), new Ring(limiter)];
        run(rings, 0, 2.05);
        limiter.configure({ ...NO_LIMITS, iops: to }, 2.05 * SECOND);
        const done = () => rings.reduce((sum, ring) => sum + ring.done, 0);
        run(rings, 2.05 * SECOND, 0.2);
        const settled = done();
        run(rings, 2.25 * SECOND, 4);
        expect((done() - settled) / (to * 4)).toBeGreaterThan(0.95);
        expect((done() - settled) / (to * 4)).toBeLessThan(1.05);
      }
      const limiter = limiterOf({ iops: 10 });
      const ring = new Ring(limiter);
      ring.poll(0);
      limiter.configure(NO_LIMITS, 0);
      expect(limiter.active).toBe(false);
      expect(limiter.take(0, 100_000, ring.turn)).toBe(0);
    });

    it('keeps its pace although it is set again all the time', () => {
      const limiter = limiterOf({ iops: 10 });
      const ring = new Ring(limiter);
      for (let now = 0; now <= 10 * SECOND; now += 10_000) {
        limiter.configure({ ...NO_LIMITS, iops: 10 }, now);
        ring.poll(now);
      }
      expect(ring.done).toBeGreaterThanOrEqual(90);
      expect(ring.done).toBeLessThanOrEqual(101);
    });

    it('does not make what is owed take longer', () => {
      const limiter = limiterOf({ bytesPerSecond: 100e6 });
      const ring = new Ring(limiter, () => 50e6);
      ring.poll(0);
      limiter.configure({ ...NO_LIMITS, bytesPerSecond: 1e6 }, 0);
      expect(limiter.balance(0).bytes).toBeGreaterThan(-0.5e6);
    });

    it('starts a limit that was not there with full buckets, and keeps the level of one that was', () => {
      const limiter = limiterOf({ iops: 100 });
      new Ring(limiter).poll(0);
      limiter.configure({ ...NO_LIMITS, iops: 100, bytesPerSecond: 1000 }, 0);
      expect(limiter.balance(0)).toMatchObject({ requests: 0, maxRequests: 10, bytes: 100, maxBytes: 100 });
    });
  });

  it('keeps to its bound and starves nobody, whatever is asked, by whom and when', () => {
    for (let seed = 1; seed <= 40; seed += 1) {
      const random = randomOf(seed);
      const pick = (least: number, most: number) => Math.floor(least + (most - least) * random() ** 3);
      const limits = rateLimitsOf({
        iops: seed % 4 > 0 ? pick(1, 100_000) : 0,
        bytesPerSecond: seed % 4 === 0 || random() < 0.5 ? pick(1000, 1e9) : 0,
        iopsUnitBytes: random() < 0.3 ? 4096 * pick(1, 64) : 0,
      });
      if (limits.iops > 0 && random() < 0.5)
        Object.assign(limits, { iopsBurst: limits.iops * 2 + 1, iopsBurstSeconds: pick(1, 10) });
      const start = pick(0, 2 ** 32) | 0;
      const limiter = limiterOf(limits, start);
      const size = () => (random() < 0.1 ? pick(0, 2 ** 22) : pick(0, 65_536));
      const rings = Array.from({ length: pick(1, 6) }, () => new Ring(limiter, size, start));
      const lateness = pick(0, 3000);
      const seconds = pick(2, 10);
      const { maxRequests, maxBytes } = limiter.balance(start);
      run(rings, start, seconds, lateness);
      const count = rings.reduce((sum, ring) => sum + ring.done, 0);
      const bytes = rings.reduce((sum, ring) => sum + ring.doneBytes, 0);
      const about = `seed ${seed}`;
      // One request beyond what a bucket holds may leave it in debt.
      if (limits.iops > 0) expect(count, about).toBeLessThanOrEqual(maxRequests + limits.iops * seconds + 1);
      if (limits.bytesPerSecond > 0)
        expect(bytes, about).toBeLessThanOrEqual(maxBytes + limits.bytesPerSecond * seconds + 2 ** 22);
      // A turn is due after all turns before it; nothing but time stands between.
      for (const ring of rings) {
        const before = ring.done;
        for (let tries = 0; tries < 10_000 && ring.done === before; tries += 1) {
          ring.poll(ring.wakeAt);
          for (const other of rings) if (other !== ring) other.poll(ring.wakeAt);
        }
        expect(ring.done, about).toBeGreaterThan(before);
      }
    }
  });

  it('hands on what it holds, to the same limits and to others', () => {
    const limits = { iops: 10, iopsBurst: 100, iopsBurstSeconds: 2 };
    const before = limiterOf(limits);
    const ring = new Ring(before);
    run([ring], 0, 10);
    const credits = before.credits(10 * SECOND);
    const after = (changed: Partial<RateLimits>, handed = credits) => {
      const limiter = limiterOf(changed, 20 * SECOND);
      limiter.restore(handed, 20 * SECOND);
      const next = new Ring(limiter, undefined, 20 * SECOND);
      run([next], 20 * SECOND, 1);
      return next.done;
    };
    // One burst is used up, and only the base rate is left.
    expect(after(limits)).toBeLessThanOrEqual(13);
    expect(after(limits, limiterOf(limits).credits(0))).toBeGreaterThan(90);
    expect(after({ iops: 1000 })).toBeGreaterThan(900);
  });
});
