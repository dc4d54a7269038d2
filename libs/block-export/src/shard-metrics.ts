/** Kinds of requests that are told apart. */
export const OPERATIONS = ['read', 'write', 'flush', 'discard', 'other'] as const;
export type OperationName = (typeof OPERATIONS)[number];
export const OPERATION = { read: 0, write: 1, flush: 2, discard: 3, other: 4 } as const;

/** What is counted beside requests that were completed; `taken` off the rings less those are in flight. */
export const COUNTERS = ['kicks', 'calls', 'callsSuppressed', 'taken'] as const;
export type CounterName = (typeof COUNTERS)[number];

/** Upper bounds of the latency histogram's buckets are powers of two: 1 µs, 2 µs … 2^22 µs (4 s), then no bound. */
export const BUCKETS = 24;

/** Failures are counted by name; this many names fit, and the closed lists they come from have fewer. */
const NAMES = 64;

// A histogram is its sum, then its buckets; what is kept of one kind of request lies together.
const HISTOGRAM_PLACES = 1 + BUCKETS;
const BYTES = 0;
const QUEUE = 1;
const FILE = QUEUE + HISTOGRAM_PLACES;
const OPERATION_PLACES = FILE + HISTOGRAM_PLACES;
const COUNTER_BASE = OPERATIONS.length * OPERATION_PLACES;
const NAME_BASE = COUNTER_BASE + COUNTERS.length;
const RING = NAME_BASE + NAMES;
const COMPLETE = RING + HISTOGRAM_PLACES;
const NUMBERS = COMPLETE + HISTOGRAM_PLACES;

/** Where each counter is; a constant name costs the hot path nothing. */
export const COUNTER = Object.fromEntries(
  COUNTERS.map((name, index) => [name, COUNTER_BASE + index]),
) as Record<CounterName, number>;

/** The histograms of the rings, which no single request has. */
export const HISTOGRAM = { ring: RING, complete: COMPLETE } as const;

/** Which bucket counts a duration: 0 and 1 µs → 0, 2 → 1, 3 and 4 → 2, and so on. */
const bucketOf = (micros: number): number => {
  if (micros <= 1) return 0;
  const bucket = 32 - Math.clz32(micros - 1);
  return bucket < BUCKETS ? bucket : BUCKETS - 1;
};

/** Counters of one volume on one reactor thread, in shared memory: that thread writes, any thread reads. */
export class ShardMetrics {
  static readonly BYTES = NUMBERS * Float64Array.BYTES_PER_ELEMENT;
  private readonly numbers: Float64Array;

  constructor(buffer: SharedArrayBuffer, offsetBytes: number) {
    this.numbers = new Float64Array(buffer, offsetBytes, NUMBERS);
  }

  /**
   * Counts a request that was given back: how long it was on our side and how long in the kernel, and the bytes that it
   * moved. A clock that went back counts as nothing.
   */
  finished(operation: number, queueMicros: number, fileMicros: number, bytes: number): void {
    const { numbers } = this;
    const at = operation * OPERATION_PLACES;
    const queue = queueMicros > 0 ? queueMicros : 0;
    const file = fileMicros > 0 ? fileMicros : 0;
    numbers[at + BYTES]! += bytes;
    numbers[at + QUEUE]! += queue;
    numbers[at + QUEUE + 1 + bucketOf(queue)]! += 1;
    numbers[at + FILE]! += file;
    numbers[at + FILE + 1 + bucketOf(file)]! += 1;
  }

  /** Adds to a counter, one of COUNTER. */
  add(counter: number, amount: number): void {
    this.numbers[counter]! += amount;
  }

  /** Counts a failure; `index` is its place in the list of names that writer and reader share. */
  countName(index: number): void {
    this.numbers[NAME_BASE + index]! += 1;
  }

  /** Adds one duration, in microseconds, to one of HISTOGRAM. */
  observe(histogram: number, micros: number): void {
    const value = micros > 0 ? micros : 0;
    this.numbers[histogram]! += value;
    this.numbers[histogram + 1 + bucketOf(value)]! += 1;
  }

  /** Adds what is counted here to a sum over threads. */
  addTo(total: MetricsTotal): void {
    const { numbers } = this;
    OPERATIONS.forEach((name, operation) => {
      const at = operation * OPERATION_PLACES;
      total.bytes[name] += numbers[at + BYTES]!;
      this.addHistogram(total.latency[name].queue, at + QUEUE);
      total.requests[name] += this.addHistogram(total.latency[name].file, at + FILE);
    });
    this.addHistogram(total.ring, RING);
    this.addHistogram(total.complete, COMPLETE);
    for (const name of COUNTERS) total.counters[name] += numbers[COUNTER[name]]!;
    for (let index = 0; index < NAMES; index += 1) total.names[index]! += numbers[NAME_BASE + index]!;
  }

  /** Requests off the rings that were not given back yet; not of one moment, as the thread goes on counting. */
  inFlight(): number {
    let count = this.numbers[COUNTER.taken]!;
    for (let operation = 0; operation < OPERATIONS.length; operation += 1) {
      const at = operation * OPERATION_PLACES + FILE + 1;
      for (let bucket = 0; bucket < BUCKETS; bucket += 1) count -= this.numbers[at + bucket]!;
    }
    return count;
  }

  /** Returns how many it has added. */
  private addHistogram(latency: Latency, at: number): number {
    let count = 0;
    latency.sumMicros += this.numbers[at]!;
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
      const here = this.numbers[at + 1 + bucket]!;
      latency.buckets[bucket]! += here;
      count += here;
    }
    return count;
  }
}

/** How many took at most 2^i µs (the last: any time), and their sum. */
export interface Latency {
  buckets: number[];
  sumMicros: number;
}

/**
 * What all threads have counted of a volume. Time is told layer by layer: each kind of request has `queue` (off the
 * ring, not yet in the kernel) and `file` (in the kernel); each look at a ring that found something has `ring` (how long
 * it may have been there at most), and each publication `complete` (from the kernel's first answer to the used ring and
 * the call).
 */
export interface MetricsTotal {
  requests: Record<OperationName, number>;
  /** What requests that succeeded have moved, or given back. */
  bytes: Record<OperationName, number>;
  counters: Record<CounterName, number>;
  latency: Record<OperationName, { queue: Latency; file: Latency }>;
  ring: Latency;
  complete: Latency;
  names: number[];
}

export const emptyTotal = (): MetricsTotal => {
  const latency = (): Latency => ({ buckets: Array.from({ length: BUCKETS }, () => 0), sumMicros: 0 });
  const both = (): { queue: Latency; file: Latency } => ({ queue: latency(), file: latency() });
  const none = { read: 0, write: 0, flush: 0, discard: 0, other: 0 };
  return {
    requests: { ...none },
    bytes: { ...none },
    counters: Object.fromEntries(COUNTERS.map((name) => [name, 0])) as Record<CounterName, number>,
    latency: { read: both(), write: both(), flush: both(), discard: both(), other: both() },
    ring: latency(),
    complete: latency(),
    names: Array.from({ length: NAMES }, () => 0),
  };
};
