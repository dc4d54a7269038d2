import {
  BUCKETS,
  type ExportStatus,
  type Latency,
  OPERATIONS,
  type ReactorStatus,
} from '@cairn/block-export';

/** The layers that a request passes, in order; see docs/metrics.md. */
export const LAYERS = ['ring', 'queue', 'file', 'completion'] as const;
export type Layer = (typeof LAYERS)[number];

/** What became of a volume's guest. */
export type GuestState = 'no' | 'yes' | 'waits' | 'FAILED';

/** What an export has counted since it began. */
export interface VolumeCounts {
  /** The volume's id, or the file that is served. */
  volume: string;
  guest: GuestState;
  reads: number;
  writes: number;
  /** Flushes, discards and the rest. */
  others: number;
  readBytes: number;
  writtenBytes: number;
  inFlight: number;
  /** How many took at most 2^i µs in each layer; the last: longer. */
  latency: Record<Layer, number[]>;
  throttledSeconds: number;
  kicks: number;
  calls: number;
  faults: number;
  errors: number;
}

/** What room a pool has. */
export interface PoolSpace {
  pool: string;
  totalBytes: number;
  freeBytes: number;
  /** What its volumes may come to. */
  promisedBytes: number;
  /** Less is free than its node was told to warn of. */
  lowSpace: boolean;
}

/** Everything that was counted up to one moment. */
export interface Sample {
  /** Milliseconds, of a clock that never goes back. */
  atMs: number;
  volumes: VolumeCounts[];
  reactors: ReactorStatus[];
  pools: PoolSpace[];
}

export const noBuckets = (): number[] => Array.from({ length: BUCKETS }, () => 0);

/** The counts of an export of `cairn export`. */
export const countsOf = (status: ExportStatus & { file: string }): VolumeCounts => {
  const { metrics } = status;
  const { requests, bytes, latency, counters } = metrics;
  const all = (layer: 'queue' | 'file'): number[] =>
    sumOf(OPERATIONS.map((operation) => latency[operation][layer]));
  return {
    volume: status.file,
    guest: guestOf(status),
    reads: requests.read,
    writes: requests.write,
    others: requests.flush + requests.discard + requests.other,
    readBytes: bytes.read,
    writtenBytes: bytes.write,
    inFlight: status.inFlight,
    latency: {
      ring: metrics.ring.buckets,
      queue: all('queue'),
      file: all('file'),
      completion: metrics.complete.buckets,
    },
    throttledSeconds: status.rate.throttledMicros / 1e6,
    kicks: counters.kicks,
    calls: counters.calls,
    faults: status.guestFaults,
    errors: Object.values(status.errorsByName).reduce((sum, count) => sum + count, 0),
  };
};

/** Whether a guest is there, worst first. */
export const guestOf = (status: { failed?: unknown; waiting?: unknown; connected: boolean }): GuestState => {
  if (status.failed) return 'FAILED';
  if (status.waiting) return 'waits';
  return status.connected ? 'yes' : 'no';
};

const sumOf = (latencies: readonly Latency[]): number[] =>
  noBuckets().map((_, bucket) => latencies.reduce((sum, latency) => sum + latency.buckets[bucket]!, 0));
