/**
 * How much of a volume its guest may have. A rate of 0 is no limit.
 *
 * With a burst rate above the base rate, a bucket of burst credits fills at the base rate while less is used, and is
 * drawn on while more is: full, as it is at first, it lasts `…BurstSeconds` at the burst rate.
 */
export interface RateLimits {
  /** Requests a second, for ever. */
  iops: number;
  /** Requests a second while burst credits last; 0 = no burst. */
  iopsBurst: number;
  iopsBurstSeconds: number;
  /** Bytes a second, for ever. */
  bytesPerSecond: number;
  /** Bytes a second while burst credits last; 0 = no burst. */
  bytesBurst: number;
  bytesBurstSeconds: number;
  /** A request counts once for each started so many bytes; 0 = once, whatever its size. */
  iopsUnitBytes: number;
}

export const NO_LIMITS: RateLimits = {
  iops: 0,
  iopsBurst: 0,
  iopsBurstSeconds: 0,
  bytesPerSecond: 0,
  bytesBurst: 0,
  bytesBurstSeconds: 0,
  iopsUnitBytes: 0,
};

const MAX_RATE = 2 ** 40;
const MAX_BURST_SECONDS = 86_400;
const SECTOR_BYTES = 512;

/**
 * Limits from those of their fields that somebody gave; a burst lasts a second where no time is given, as in QEMU.
 * Throws an Error that says what is wrong.
 */
export const rateLimitsOf = (given: Partial<RateLimits>): RateLimits => {
  const limits = { ...NO_LIMITS, ...given };
  if (limits.iopsBurst > 0 && given.iopsBurstSeconds === undefined) limits.iopsBurstSeconds = 1;
  if (limits.bytesBurst > 0 && given.bytesBurstSeconds === undefined) limits.bytesBurstSeconds = 1;
  for (const [name, value] of Object.entries(limits)) {
    const most = name.endsWith('Seconds') ? MAX_BURST_SECONDS : MAX_RATE;
    if (!Number.isSafeInteger(value) || value < 0 || value > most)
      throw new Error(`${name} must be a whole number from 0 to ${most}, not ${value}`);
  }
  const { iops, iopsBurst, bytesPerSecond, bytesBurst, iopsUnitBytes } = limits;
  if (iopsBurst > 0 && (iops === 0 || iopsBurst <= iops)) throw new Error('iopsBurst must be above iops');
  if (bytesBurst > 0 && (bytesPerSecond === 0 || bytesBurst <= bytesPerSecond))
    throw new Error('bytesBurst must be above bytesPerSecond');
  if (iopsUnitBytes % SECTOR_BYTES !== 0)
    throw new Error(`iopsUnitBytes must be a multiple of ${SECTOR_BYTES}`);
  return limits;
};

/** Do these limits limit anything? */
export const isLimited = ({ iops, bytesPerSecond }: RateLimits): boolean => iops > 0 || bytesPerSecond > 0;

/** What a bucket of the limiter is made of: how fast it fills, and how much it holds. */
export interface BucketSize {
  rate: number;
  capacity: number;
}

/** How many seconds' worth may go at once without a burst, as in QEMU (throttle_compute_wait); at least one request. */
const SLICE_SECONDS = 0.1;

/**
 * The two buckets of one resource: one that fills at the base rate and holds the burst credits, and one that keeps a
 * burst to its rate. Without a burst they are the same.
 */
export const bucketsOf = (rate: number, burst: number, burstSeconds: number): [BucketSize, BucketSize] => {
  const peak = Math.max(rate, burst);
  const slice = (of: number): number => Math.max(1, of * SLICE_SECONDS);
  if (rate === 0) return [NO_BUCKET, NO_BUCKET];
  const credits = (peak - rate) * burstSeconds;
  return [
    { rate, capacity: slice(peak) + credits },
    { rate: peak, capacity: slice(peak) },
  ];
};

const NO_BUCKET: BucketSize = { rate: 0, capacity: 0 };
