import { describe, expect, it } from 'vitest';
import { FEATURE, FeatureSet } from './features.js';
import { BLK_FEATURE, RING_FEATURE } from './testing/index.js';

describe('a feature set', () => {
  it('has the bit numbers of the specification (virtio 1.2 §5.2.3, §6)', () => {
    const { PROTOCOL_FEATURES, VERSION_1, INDIRECT_DESC, EVENT_IDX } = RING_FEATURE;
    for (const [name, bit] of Object.entries(BLK_FEATURE))
      expect(FEATURE[`BLK_${name}` as keyof typeof FEATURE]).toBe(bit);
    expect(FEATURE).toMatchObject({
      RING_INDIRECT_DESC: INDIRECT_DESC,
      RING_EVENT_IDX: EVENT_IDX,
      VHOST_USER_PROTOCOL_FEATURES: PROTOCOL_FEATURES,
      VERSION_1,
    });
  });

  it('holds its bits as two unsigned words', () => {
    const set = FeatureSet.of(FEATURE.BLK_FLUSH, FEATURE.VHOST_USER_PROTOCOL_FEATURES, FEATURE.VERSION_1);
    expect([set.low, set.high]).toEqual([0x40000200, 1]);
  });

  it('makes negative words unsigned', () => {
    const set = FeatureSet.fromWords(-1, -2);
    expect([set.low, set.high]).toEqual([0xffffffff, 0xfffffffe]);
  });

  it('tells bits of the low word from the same bits of the high word', () => {
    const low = FeatureSet.fromWords(1, 0);
    const high = FeatureSet.fromWords(0, 1);
    expect(low.has(FEATURE.VERSION_1)).toBe(false);
    expect(high.has(FEATURE.VERSION_1)).toBe(true);
    expect(FeatureSet.fromWords(0xffffffff, 0).has(FEATURE.VHOST_USER_PROTOCOL_FEATURES)).toBe(true);
  });

  it('is a subset only when neither word has a bit that the other lacks, the sign bits included', () => {
    const offered = FeatureSet.fromWords(0x40000200, 1);
    expect(FeatureSet.of().isSubsetOf(offered)).toBe(true);
    expect(offered.isSubsetOf(offered)).toBe(true);
    expect(FeatureSet.fromWords(0x200, 0).isSubsetOf(offered)).toBe(true);
    expect(FeatureSet.fromWords(0x80000200, 0).isSubsetOf(offered)).toBe(false);
    expect(FeatureSet.fromWords(0, 0x80000001).isSubsetOf(offered)).toBe(false);
    expect(FeatureSet.fromWords(1, 0).isSubsetOf(offered)).toBe(false);
  });
});
