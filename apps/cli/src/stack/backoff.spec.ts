import { describe, expect, it } from 'vitest';
import { backoffMs } from './backoff.js';

describe('backoffMs', () => {
  it('doubles with every end in a row, up to half a minute', () => {
    const delays = [0, 1, 2, 6, 7, 100].map((earlier) => backoffMs(earlier, 100).delay);
    expect(delays).toEqual([250, 500, 1000, 16_000, 30_000, 30_000]);
  });

  it('starts over after a healthy minute', () => {
    expect(backoffMs(9, 60_000)).toEqual({ attempt: 1, delay: 250 });
    expect(backoffMs(9, 59_999).attempt).toBe(10);
  });
});
