// Token buckets for one volume, shared by the threads that serve it.
//
// Requests and bytes have two buckets each (see `bucketsOf`); a request goes when all of them cover it. One that is
// larger than a bucket goes when the bucket is full, and leaves it in debt. Who cannot go takes a turn: what it will
// need is charged at once, and it goes as soon as that has come in. Turns are due in the order in which they were
// taken, so that no ring of the volume, on whichever thread, can starve another.
import { bucketsOf, type BucketSize, type RateLimits } from './rate-limits.js';

const LOCK = 0; // int32 words
const CLOCK = 1;
const ACTIVE = 2;
const WAITING = 3;
const VERSION = 4;
const WORDS = 6;
const THROTTLED_MICROS = 3; // float64 places, behind the words
const THROTTLES = 4;
const UNIT_BYTES = 5;
const BUCKETS_AT = 6;

// Each bucket, and its places. `charged` is the sum of what was taken from it, and of what turns will take.
const BASE_REQUESTS = 0;
const BASE_BYTES = 2;
const BUCKETS = 4;
const RATE = 0;
const CAPACITY = 1;
const LEVEL = 2;
const CHARGED = 3;
const RESERVED = 4;
const BUCKET_PLACES = 5;
const PLACES = BUCKETS_AT + BUCKETS * BUCKET_PLACES;

const SECOND_MICROS = 1_000_000;
/** A turn is for what comes in within this time, so that a fast ring need not be woken for each request. */
const TURN_SECONDS = 0.001;
/** A wait is bounded, so that a limit that is raised or taken away is felt soon. */
const MAX_WAIT_MICROS = 100_000;
/** Threads' clocks differ by less; what seems further back is the clock once around (71 minutes). */
const CLOCK_SKEW_MICROS = 10 * SECOND_MICROS;
const SPINS = 1000;

/** A ring's place among those that wait for their volume's limit. Belongs to the thread that serves the ring. */
export class RateTurn {
  /** Limits that it was taken under; others void it. */
  version = -1;
  waiting = false;
  /** It is due when so much has come into each bucket; so much was charged for it then. */
  readonly dueAt = new Float64Array(BUCKETS);
  chargedRequests = 0;
  chargedBytes = 0;
  /** Paid requests and bytes in hand: what turns that were due have left over. */
  requests = 0;
  bytes = 0;
}

/** What the limiter holds at one moment. */
export interface RateBalance {
  /** Credits that are left; below 0: what large requests owe, and those that wait will take. */
  requests: number;
  bytes: number;
  /** What full buckets hold. */
  maxRequests: number;
  maxBytes: number;
  /** How often a ring was held back. */
  throttles: number;
  /** How long at least one ring was held back, in all. */
  throttledMicros: number;
}

/** Buckets of a limiter: how many it hands on at most. */
export const RATE_BUCKETS = BUCKETS;

/** What a bucket held under one rate; below 0, what is owed. Whole requests or bytes; rate 0: there was no limit. */
export interface RateCredits {
  rate: number;
  level: number;
}

/** Decides, before a chain is taken off its ring, whether it may go now. */
export class RateLimiter {
  static readonly BYTES = PLACES * Float64Array.BYTES_PER_ELEMENT;
  private readonly words: Int32Array;
  private readonly numbers: Float64Array;

  constructor(buffer: SharedArrayBuffer, offsetBytes: number) {
    this.words = new Int32Array(buffer, offsetBytes, WORDS);
    this.numbers = new Float64Array(buffer, offsetBytes, PLACES);
  }

  /** Is there any limit? */
  get active(): boolean {
    return this.words[ACTIVE] === 1;
  }

  /** Credits are 0 of 0 where there is no limit. */
  balance(nowMicros: number): RateBalance {
    const of = (bucket: number, place: number): number =>
      this.get(bucket, RATE) > 0 ? this.get(bucket, place) : 0;
    return this.locked(nowMicros, () => ({
      requests: of(BASE_REQUESTS, LEVEL),
      bytes: of(BASE_BYTES, LEVEL),
      maxRequests: of(BASE_REQUESTS, CAPACITY),
      maxBytes: of(BASE_BYTES, CAPACITY),
      throttles: this.numbers[THROTTLES]!,
      throttledMicros: this.numbers[THROTTLED_MICROS]!,
    }));
  }

  /** Brings the buckets up to date: called once in a while, so that idle time is seen before the clock wraps. */
  tick(nowMicros: number): void {
    this.locked(nowMicros, () => undefined);
  }

  /**
   * Sets the limits, also while requests flow. A bucket keeps what it holds, up to what it can hold now; one that was
   * not there before is full. What is owed takes no longer to pay than before.
   */
  configure(limits: RateLimits, nowMicros: number): void {
    const sizes = [
      ...bucketsOf(limits.iops, limits.iopsBurst, limits.iopsBurstSeconds),
      ...bucketsOf(limits.bytesPerSecond, limits.bytesBurst, limits.bytesBurstSeconds),
    ];
    this.locked(nowMicros, () => {
      sizes.forEach((size, bucket) => this.resize(bucket, size));
      this.numbers[UNIT_BYTES] = limits.iopsUnitBytes;
      this.words[WAITING] = 0;
      this.words[VERSION]! += 1;
      this.words[ACTIVE] = limits.iops > 0 || limits.bytesPerSecond > 0 ? 1 : 0;
    });
  }

  /** What each bucket holds, for a limiter that goes on with it. */
  credits(nowMicros: number): RateCredits[] {
    return this.locked(nowMicros, () =>
      Array.from({ length: BUCKETS }, (_, bucket) => {
        const level = this.get(bucket, LEVEL) + this.get(bucket, RESERVED);
        return { rate: this.get(bucket, RATE), level: Math.floor(level) };
      }),
    );
  }

  /** Goes on with what another limiter held, as after a change from its limits to these. */
  restore(credits: readonly RateCredits[], nowMicros: number): void {
    this.locked(nowMicros, () => {
      credits.forEach((before, bucket) => {
        const [rate, capacity] = [this.get(bucket, RATE), this.get(bucket, CAPACITY)];
        if (rate > 0) this.set(bucket, LEVEL, levelAfter(before, { rate, capacity }));
      });
    });
  }

  /**
   * 0 when a request of so many bytes may go, and is paid; else after how many microseconds to ask again, with the
   * same turn.
   */
  take(bytes: number, nowMicros: number, turn: RateTurn): number {
    const unit = this.numbers[UNIT_BYTES]!;
    const requests = unit > 0 && bytes > unit ? Math.ceil(bytes / unit) : 1;
    if (turn.version === this.words[VERSION] && !turn.waiting && this.spend(requests, bytes, turn)) return 0;
    this.lock();
    this.refill(nowMicros);
    const wait = this.takeLocked(requests, bytes, turn);
    this.unlock();
    return wait;
  }

  /** Gives a turn back: its ring takes nothing any more. */
  cancel(turn: RateTurn): void {
    if (!turn.waiting) return;
    this.lock();
    if (turn.version === this.words[VERSION]) {
      this.words[WAITING]! -= 1;
      for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
        const amount = amountOf(bucket, turn.chargedRequests, turn.chargedBytes);
        this.add(bucket, RESERVED, -amount);
        this.fill(bucket, amount);
      }
    }
    this.unlock();
    this.clear(turn);
  }

  private takeLocked(requests: number, bytes: number, turn: RateTurn): number {
    if (turn.version !== this.words[VERSION]) this.clear(turn);
    if (turn.waiting && this.waitOf(turn) <= 0) {
      turn.waiting = false;
      turn.requests += turn.chargedRequests;
      turn.bytes += turn.chargedBytes;
      this.words[WAITING]! -= 1;
      for (let bucket = 0; bucket < BUCKETS; bucket += 1)
        this.add(bucket, RESERVED, -amountOf(bucket, turn.chargedRequests, turn.chargedBytes));
      // A driver may have put a larger request in the place of the one that waited.
      if (this.spend(requests, bytes, turn)) return 0;
    }
    if (!turn.waiting) {
      if (this.words[WAITING] === 0 && this.covers(requests, bytes)) {
        for (let bucket = 0; bucket < BUCKETS; bucket += 1)
          this.charge(bucket, amountOf(bucket, requests, bytes));
        return 0;
      }
      this.enqueue(requests, bytes, turn);
    }
    return Math.min(MAX_WAIT_MICROS, Math.max(1, Math.ceil(this.waitOf(turn) * SECOND_MICROS)));
  }

  /** Pays with what is in hand. */
  private spend(requests: number, bytes: number, turn: RateTurn): boolean {
    if (this.get(BASE_REQUESTS, RATE) > 0 && turn.requests < requests) return false;
    if (this.get(BASE_BYTES, RATE) > 0 && turn.bytes < bytes) return false;
    turn.requests = Math.max(0, turn.requests - requests);
    turn.bytes = Math.max(0, turn.bytes - bytes);
    return true;
  }

  private covers(requests: number, bytes: number): boolean {
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
      const enough = Math.min(amountOf(bucket, requests, bytes), this.get(bucket, CAPACITY));
      if (this.get(bucket, RATE) > 0 && this.get(bucket, LEVEL) < enough) return false;
    }
    return true;
  }

  private enqueue(requests: number, bytes: number, turn: RateTurn): void {
    turn.version = this.words[VERSION]!;
    turn.waiting = true;
    const worthRequests = Math.max(requests, Math.floor(this.worthOfTurn(BASE_REQUESTS)));
    const worthBytes = Math.max(bytes, Math.floor(this.worthOfTurn(BASE_BYTES)));
    turn.chargedRequests = Math.max(0, worthRequests - turn.requests);
    turn.chargedBytes = Math.max(0, worthBytes - turn.bytes);
    this.words[WAITING]! += 1;
    this.numbers[THROTTLES]! += 1;
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
      const amount = amountOf(bucket, turn.chargedRequests, turn.chargedBytes);
      turn.dueAt[bucket] = this.get(bucket, CHARGED) + Math.min(amount, this.get(bucket, CAPACITY));
      this.add(bucket, RESERVED, amount);
      this.charge(bucket, amount);
    }
  }

  /** What comes in during a turn: at the burst rate, while there are credits for it. */
  private worthOfTurn(base: number): number {
    const peak = this.get(base + 1, RATE) * TURN_SECONDS;
    return this.get(base, LEVEL) > peak ? peak : this.get(base, RATE) * TURN_SECONDS;
  }

  /** Seconds until a turn is due; 0 or less: it is. */
  private waitOf(turn: RateTurn): number {
    let wait = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
      const rate = this.get(bucket, RATE);
      const cameIn = this.get(bucket, LEVEL) + this.get(bucket, CHARGED);
      if (rate > 0) wait = Math.max(wait, (turn.dueAt[bucket]! - cameIn) / rate);
    }
    return wait;
  }

  private refill(nowMicros: number): void {
    const { words } = this;
    let elapsed = (nowMicros - words[CLOCK]!) | 0;
    if (elapsed < -CLOCK_SKEW_MICROS) elapsed += 2 ** 32;
    // A little back: another thread looked at its clock a little later.
    if (elapsed <= 0) return;
    words[CLOCK] = nowMicros;
    if (words[WAITING]! > 0) this.numbers[THROTTLED_MICROS]! += elapsed;
    for (let bucket = 0; bucket < BUCKETS; bucket += 1)
      this.fill(bucket, (this.get(bucket, RATE) * elapsed) / SECOND_MICROS);
  }

  private resize(bucket: number, { rate, capacity }: BucketSize): void {
    const before = {
      rate: this.get(bucket, RATE),
      level: this.get(bucket, LEVEL) + this.get(bucket, RESERVED),
    };
    this.set(bucket, RATE, rate);
    this.set(bucket, CAPACITY, capacity);
    this.set(bucket, LEVEL, levelAfter(before, { rate, capacity }));
    this.set(bucket, CHARGED, 0);
    this.set(bucket, RESERVED, 0);
  }

  private fill(bucket: number, amount: number): void {
    this.set(bucket, LEVEL, Math.min(this.get(bucket, CAPACITY), this.get(bucket, LEVEL) + amount));
  }

  private charge(bucket: number, amount: number): void {
    if (this.get(bucket, RATE) === 0) return;
    this.add(bucket, LEVEL, -amount);
    this.add(bucket, CHARGED, amount);
  }

  private clear(turn: RateTurn): void {
    turn.version = this.words[VERSION]!;
    turn.waiting = false;
    turn.requests = 0;
    turn.bytes = 0;
  }

  private get(bucket: number, place: number): number {
    return this.numbers[BUCKETS_AT + bucket * BUCKET_PLACES + place]!;
  }

  private set(bucket: number, place: number, value: number): void {
    this.numbers[BUCKETS_AT + bucket * BUCKET_PLACES + place] = value;
  }

  private add(bucket: number, place: number, amount: number): void {
    this.numbers[BUCKETS_AT + bucket * BUCKET_PLACES + place]! += amount;
  }

  private locked<Result>(nowMicros: number, work: () => Result): Result {
    this.lock();
    try {
      this.refill(nowMicros);
      return work();
    } finally {
      this.unlock();
    }
  }

  /** Held for some hundreds of nanoseconds, unless its holder was put to sleep by the kernel: then sleeping is better. */
  private lock(): void {
    for (let tries = 1; Atomics.compareExchange(this.words, LOCK, 0, 1) !== 0; tries += 1)
      if (tries % SPINS === 0) Atomics.wait(this.words, LOCK, 1, 1);
  }

  private unlock(): void {
    Atomics.store(this.words, LOCK, 0);
  }
}

const amountOf = (bucket: number, requests: number, bytes: number): number =>
  bucket < BASE_BYTES ? requests : bytes;

/** What a bucket holds after a change of its size: full when it is new; a debt takes no longer to pay than before. */
const levelAfter = (before: RateCredits, { rate, capacity }: BucketSize): number => {
  if (before.rate === 0) return capacity;
  const kept = before.level < 0 ? before.level * Math.min(1, rate / before.rate) : before.level;
  return Math.min(kept, capacity);
};
