// Two token buckets, requests and bytes, for one volume, shared by the threads that serve it.
//
// A bucket fills at its rate up to its burst. A request goes when both buckets hold something; the byte bucket may
// then go into debt, so that a request larger than the burst passes, and is paid for afterwards.

const LOCK = 0; // int32 words
const CLOCK = 1;
const ACTIVE = 2;
const IOPS_RATE = 2; // float64 places
const IOPS_BURST = 3;
const IOPS_LEVEL = 4;
const BYTES_RATE = 5;
const BYTES_BURST = 6;
const BYTES_LEVEL = 7;
const PLACES = 8;
const SECOND_MICROS = 1_000_000;
const MAX_WAIT_MICROS = 200_000;

/** Limits of a volume; a rate of 0 is no limit. */
export interface RateLimits {
  iops: number;
  /** Requests that may go at once after a pause; 0 = one second's worth. */
  iopsBurst: number;
  bytesPerSecond: number;
  /** Bytes that may go at once after a pause; 0 = one second's worth. */
  bytesBurst: number;
}

export const NO_LIMITS: RateLimits = { iops: 0, iopsBurst: 0, bytesPerSecond: 0, bytesBurst: 0 };

/** Decides, before a chain is taken off its ring, whether it may go now. */
export class RateLimiter {
  static readonly BYTES = PLACES * Float64Array.BYTES_PER_ELEMENT;
  private readonly words: Int32Array;
  private readonly numbers: Float64Array;

  constructor(buffer: SharedArrayBuffer, offsetBytes: number) {
    this.words = new Int32Array(buffer, offsetBytes, 4);
    this.numbers = new Float64Array(buffer, offsetBytes, PLACES);
  }

  /** Is there any limit? */
  get active(): boolean {
    return this.words[ACTIVE] === 1;
  }

  /** Credits that are left: requests and bytes; negative bytes are debt. */
  get balance(): { requests: number; bytes: number } {
    return { requests: this.numbers[IOPS_LEVEL]!, bytes: this.numbers[BYTES_LEVEL]! };
  }

  /** Sets the limits, also while requests flow. What a bucket holds stays, up to the new burst. */
  configure(limits: RateLimits, nowMicros: number): void {
    this.locked(() => {
      const { numbers, words } = this;
      const first = words[ACTIVE] === 0;
      const iopsBurst = Math.max(1, limits.iopsBurst || limits.iops);
      const bytesBurst = Math.max(1, limits.bytesBurst || limits.bytesPerSecond);
      numbers[IOPS_LEVEL] = first ? iopsBurst : Math.min(numbers[IOPS_LEVEL]!, iopsBurst);
      numbers[BYTES_LEVEL] = first ? bytesBurst : Math.min(numbers[BYTES_LEVEL]!, bytesBurst);
      numbers[IOPS_RATE] = limits.iops;
      numbers[IOPS_BURST] = iopsBurst;
      numbers[BYTES_RATE] = limits.bytesPerSecond;
      numbers[BYTES_BURST] = bytesBurst;
      words[CLOCK] = nowMicros;
      words[ACTIVE] = limits.iops > 0 || limits.bytesPerSecond > 0 ? 1 : 0;
    });
  }

  /** 0 when a request of so many bytes may go, and is paid; else after how many microseconds to ask again. */
  take(bytes: number, nowMicros: number): number {
    this.lock();
    const { numbers } = this;
    this.refill(nowMicros);
    const iopsRate = numbers[IOPS_RATE]!;
    const bytesRate = numbers[BYTES_RATE]!;
    let wait = 0;
    if (iopsRate > 0 && numbers[IOPS_LEVEL]! < 1)
      wait = ((1 - numbers[IOPS_LEVEL]!) / iopsRate) * SECOND_MICROS;
    if (bytesRate > 0 && numbers[BYTES_LEVEL]! <= 0) {
      wait = Math.max(wait, ((1 - numbers[BYTES_LEVEL]!) / bytesRate) * SECOND_MICROS);
    }
    if (wait === 0) {
      if (iopsRate > 0) numbers[IOPS_LEVEL]! -= 1;
      if (bytesRate > 0) numbers[BYTES_LEVEL]! -= bytes;
    }
    this.unlock();
    // A wait is bounded, so that a limit that is raised meanwhile is felt soon.
    return wait === 0 ? 0 : Math.min(MAX_WAIT_MICROS, Math.max(1, Math.ceil(wait)));
  }

  private refill(nowMicros: number): void {
    const { numbers, words } = this;
    let elapsed = (nowMicros - words[CLOCK]!) | 0;
    // A little back: another thread looked at its clock a little later. Far back: the clock went once around (36 min).
    if (elapsed < -SECOND_MICROS) elapsed = 2 ** 31;
    if (elapsed <= 0) return;
    words[CLOCK] = nowMicros;
    const seconds = elapsed / SECOND_MICROS;
    numbers[IOPS_LEVEL] = Math.min(
      numbers[IOPS_BURST]!,
      numbers[IOPS_LEVEL]! + numbers[IOPS_RATE]! * seconds,
    );
    numbers[BYTES_LEVEL] = Math.min(
      numbers[BYTES_BURST]!,
      numbers[BYTES_LEVEL]! + numbers[BYTES_RATE]! * seconds,
    );
  }

  private locked(work: () => void): void {
    this.lock();
    try {
      work();
    } finally {
      this.unlock();
    }
  }

  /** Held for some tens of nanoseconds, by few threads: spinning beats sleeping. */
  private lock(): void {
    while (Atomics.compareExchange(this.words, LOCK, 0, 1) !== 0);
  }

  private unlock(): void {
    Atomics.store(this.words, LOCK, 0);
  }
}
