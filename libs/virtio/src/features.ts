/** Feature bit numbers (virtio 1.2 §5.2.3, §6; vhost-user spec, "Feature negotiation"). */
export const FEATURE = {
  BLK_SIZE_MAX: 1,
  BLK_SEG_MAX: 2,
  BLK_GEOMETRY: 4,
  BLK_RO: 5,
  BLK_BLK_SIZE: 6,
  BLK_FLUSH: 9,
  BLK_TOPOLOGY: 10,
  BLK_CONFIG_WCE: 11,
  BLK_MQ: 12,
  BLK_DISCARD: 13,
  BLK_WRITE_ZEROES: 14,
  VHOST_LOG_ALL: 26,
  RING_INDIRECT_DESC: 28,
  RING_EVENT_IDX: 29,
  VHOST_USER_PROTOCOL_FEATURES: 30,
  VERSION_1: 32,
  RING_PACKED: 34,
  RING_RESET: 40,
} as const;

export type FeatureBit = (typeof FEATURE)[keyof typeof FEATURE];

/** A 64-bit feature set as two unsigned 32-bit words, so that no BigInt is needed. */
export class FeatureSet {
  private constructor(
    readonly low: number,
    readonly high: number,
  ) {}

  static of(...bits: FeatureBit[]): FeatureSet {
    let low = 0;
    let high = 0;
    for (const bit of bits) {
      if (bit < 32) low |= 1 << bit;
      else high |= 1 << (bit - 32);
    }
    return new FeatureSet(low >>> 0, high >>> 0);
  }

  static fromWords(low: number, high: number): FeatureSet {
    return new FeatureSet(low >>> 0, high >>> 0);
  }

  has(bit: FeatureBit): boolean {
    return bit < 32 ? (this.low & (1 << bit)) !== 0 : (this.high & (1 << (bit - 32))) !== 0;
  }

  isSubsetOf(other: FeatureSet): boolean {
    return (this.low & ~other.low) === 0 && (this.high & ~other.high) === 0;
  }
}
