import { describe, expect, it } from 'vitest';
import { Placement } from './placement.js';

describe('the placement of rings on reactors', () => {
  const placements = (reactors: number): Placement[] => {
    const buffer = Placement.bufferFor(reactors);
    return Array.from({ length: reactors }, (_, self) => new Placement(buffer, self));
  };
  const spread = { pinned: false };

  it('spreads the queues of one volume from its home on', () => {
    const [, home] = placements(3);
    expect([0, 1, 2, 3, 4, 5].map((ring) => home!.choose(ring, spread))).toEqual([1, 2, 0, 1, 2, 0]);
  });

  it('takes the reactor with the fewest rings, whoever placed those', () => {
    const [one, two] = placements(2);
    expect(one!.choose(0, spread)).toBe(0);
    expect(one!.choose(2, spread)).toBe(1);
    expect(two!.choose(0, spread)).toBe(1);
    // 0 has one ring and 1 has two.
    expect(two!.choose(0, spread)).toBe(0);
  });

  it('gives a place back', () => {
    const [one] = placements(2);
    expect([one!.choose(0, spread), one!.choose(1, spread)]).toEqual([0, 1]);
    one!.leave(1);
    expect(one!.choose(0, spread)).toBe(1);
  });

  it('leaves a pinned ring at home, and counts it', () => {
    const [one] = placements(2);
    expect([0, 1, 2].map((ring) => one!.choose(ring, { pinned: true }))).toEqual([0, 0, 0]);
    expect([0, 1, 2].map((ring) => one!.choose(ring, spread))).toEqual([1, 1, 1]);
    expect(one!.choose(0, spread)).toBe(0);
  });

  it('knows one reactor only where there is only one', () => {
    const [one] = placements(1);
    expect([0, 1, 7].map((ring) => one!.choose(ring, spread))).toEqual([0, 0, 0]);
  });
});
