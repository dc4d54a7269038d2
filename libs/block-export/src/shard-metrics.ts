/** Kinds of requests that are told apart. */
export const OPERATIONS = ['read', 'write', 'flush', 'discard', 'other'] as const;
export type OperationName = (typeof OPERATIONS)[number];
export const OPERATION = { read: 0, write: 1, flush: 2, discard: 3, other: 4 } as const;

/**
 * Where time goes, layer by layer. Each kind of request has `queue` (off the ring, not yet in the kernel) and `file`
 * (in the kernel); each look at a ring that found something has `ring` (how long it may have been there at most), and
 * each publication `complete` (from the kernel's first answer to the used ring and the call).
 */
export const LAYERS = ['queue', 'file', 'ring', 'complete'] as const;
export type LayerName = (typeof LAYERS)[number];

/** What is counted beside requests that were completed; `taken` off the rings less those are in flight. */
export const COUNTERS = [
  'bytesRead',
  'bytesWritten',
  'bytesDiscarded',
  'kicks',
  'calls',
  'callsSuppressed',
  'taken',
] as const;
export type CounterName = (typeof COUNTERS)[number];

/** Upper bounds of the latency histogram's buckets are powers of two: 1 µs, 2 µs … 2^22 µs (4 s), then no bound. */
export const BUCKETS = 24;

/** Failures are counted by name; this many names fit, and the closed lists they come from have fewer. */
const NAMES = 64;

const HISTOGRAM_PLACES = 1 + BUCKETS; // sum, then counts
const REQUESTS = 0;
const COUNTER_BASE = REQUESTS + OPERATIONS.length;
const NAME_BASE = COUNTER_BASE + COUNTERS.length;
const HISTOGRAM_BASE = NAME_BASE + NAMES;
const HISTOGRAMS = OPERATIONS.length * 2 + 2;
const NUMBERS = HISTOGRAM_BASE + HISTOGRAMS * HISTOGRAM_PLACES;

/** Where each counter is; a constant name costs the hot path nothing. */
export const COUNTER = Object.fromEntries(
  COUNTERS.map((name, index) => [name, COUNTER_BASE + index]),
) as Record<CounterName, number>;

/** Which histogram of a shard: one of a request's (`queueOf`, `fileOf`), or one of its rings'. */
export const HISTOGRAM = { ring: OPERATIONS.length * 2, complete: OPERATIONS.length * 2 + 1 } as const;
export const queueOf = (operation: number): number => operation * 2;
export const fileOf = (operation: number): number => operation * 2 + 1;

/** Counters of one volume on one reactor thread, in shared memory: that thread writes, any thread reads. */
export class ShardMetrics {
  static readonly BYTES = NUMBERS * Float64Array.BYTES_PER_ELEMENT;
  private readonly numbers: Float64Array;

  constructor(buffer: SharedArrayBuffer, offsetBytes: number) {
    this.numbers = new Float64Array(buffer, offsetBytes, NUMBERS);
  }

  countRequest(operation: number): void {
    this.numbers[REQUESTS + operation]! += 1;
  }

  /** Adds to a counter, one of COUNTER. */
  add(counter: number, amount: number): void {
    this.numbers[counter]! += amount;
  }

  /** Counts a failure; `index` is its place in the list of names that writer and reader share. */
  countName(index: number): void {
    this.numbers[NAME_BASE + index]! += 1;
  }

  /** Adds one duration, in microseconds, to a histogram. */
  observe(histogram: number, micros: number): void {
    const at = HISTOGRAM_BASE + histogram * HISTOGRAM_PLACES;
    const value = micros > 0 ? micros : 0;
    // 0 and 1 µs → 0, 2 → 1, 3 and 4 → 2, and so on.
    const bucket = value <= 1 ? 0 : 32 - Math.clz32(value - 1);
    this.numbers[at]! += value;
    this.numbers[at + 1 + (bucket < BUCKETS ? bucket : BUCKETS - 1)]! += 1;
  }

  /** Adds what is counted here to a sum over threads. */
  addTo(total: MetricsTotal): void {
    const { numbers } = this;
    OPERATIONS.forEach((name, operation) => {
      total.requests[name] += numbers[REQUESTS + operation]!;
      this.addHistogram(total.latency[name].queue, queueOf(operation));
      this.addHistogram(total.latency[name].file, fileOf(operation));
    });
    this.addHistogram(total.ring, HISTOGRAM.ring);
    this.addHistogram(total.complete, HISTOGRAM.complete);
    for (const name of COUNTERS) total.counters[name] += numbers[COUNTER[name]]!;
    for (let index = 0; index < NAMES; index += 1) total.names[index]! += numbers[NAME_BASE + index]!;
  }

  private addHistogram(latency: Latency, histogram: number): void {
    const at = HISTOGRAM_BASE + histogram * HISTOGRAM_PLACES;
    latency.sumMicros += this.numbers[at]!;
    for (let bucket = 0; bucket < BUCKETS; bucket += 1)
      latency.buckets[bucket]! += this.numbers[at + 1 + bucket]!;
  }
}

/** How many took at most 2^i µs (the last: any time), and their sum. */
export interface Latency {
  buckets: number[];
  sumMicros: number;
}

/** What all threads have counted of a volume. */
export interface MetricsTotal {
  requests: Record<OperationName, number>;
  counters: Record<CounterName, number>;
  latency: Record<OperationName, { queue: Latency; file: Latency }>;
  ring: Latency;
  complete: Latency;
  names: number[];
}

export const emptyTotal = (): MetricsTotal => {
  const latency = (): Latency => ({ buckets: Array.from({ length: BUCKETS }, () => 0), sumMicros: 0 });
  const both = (): { queue: Latency; file: Latency } => ({ queue: latency(), file: latency() });
  return {
    requests: { read: 0, write: 0, flush: 0, discard: 0, other: 0 },
    counters: Object.fromEntries(COUNTERS.map((name) => [name, 0])) as Record<CounterName, number>,
    latency: { read: both(), write: both(), flush: both(), discard: both(), other: both() },
    ring: latency(),
    complete: latency(),
    names: Array.from({ length: NAMES }, () => 0),
  };
};
