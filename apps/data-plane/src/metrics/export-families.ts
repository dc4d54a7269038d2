import { type ExportStatus, type Latency, OPERATIONS, type RateLimits } from '@cairn/block-export';
import type { Family, Sample } from './exposition.js';

const MICROS_PER_SECOND = 1_000_000;
const VOLUME = ['volume'] as const;

type Numbers = (status: ExportStatus) => Iterable<Sample<number>>;
type OperationName = (typeof OPERATIONS)[number];

/** One number of each export. */
const of =
  (value: (status: ExportStatus) => number): Numbers =>
  (status) => [[[status.id], value(status)]];

/** One number of each export that has such a limit. */
const ofLimited =
  (limit: keyof RateLimits, value: (status: ExportStatus) => number): Numbers =>
  (status) =>
    status.limits !== undefined && status.limits[limit] > 0 ? [[[status.id], value(status)]] : [];

const ofNames =
  (counts: (status: ExportStatus) => Record<string, number>): Numbers =>
  (status) =>
    Object.entries(counts(status)).map(([name, count]) => [[status.id, name], count]);

/** One histogram of each kind of request that there has been. */
const ofOperations =
  (layer: 'queue' | 'file') =>
  ({ id, metrics }: ExportStatus): Sample<Latency>[] =>
    OPERATIONS.filter((operation) => metrics.requests[operation] > 0).map((operation) => [
      [id, operation],
      metrics.latency[operation][layer],
    ]);

/** A histogram of what the rings of each export did, once they did it. */
const ofRings =
  (layer: 'ring' | 'complete') =>
  ({ id, metrics }: ExportStatus): Sample<Latency>[] =>
    metrics[layer].buckets.some((count) => count > 0) ? [[[id], metrics[layer]]] : [];

const bytesOf = (operation: OperationName): Numbers => of(({ metrics }) => metrics.bytes[operation]);

/** What is told of each export. */
export const exportFamilies: readonly Family<ExportStatus>[] = [
  {
    name: 'cairn_export_connected',
    type: 'gauge',
    labels: VOLUME,
    help: 'Whether a front-end is connected.',
    samples: of((status) => Number(status.connected)),
  },
  {
    name: 'cairn_export_waiting',
    type: 'gauge',
    labels: VOLUME,
    help: "Whether rings that a front-end has started wait for another front-end's to stop.",
    samples: of((status) => Number(status.waiting !== undefined)),
  },
  {
    name: 'cairn_export_failed',
    type: 'gauge',
    labels: VOLUME,
    help: 'Whether the export refuses writes.',
    samples: of((status) => Number(status.failed !== undefined)),
  },
  {
    name: 'cairn_export_size_bytes',
    type: 'gauge',
    labels: VOLUME,
    help: 'The size that the guest sees.',
    samples: of((status) => status.sizeBytes),
  },
  {
    name: 'cairn_export_requests_total',
    type: 'counter',
    labels: ['volume', 'operation'],
    help: 'Requests completed, whether they succeeded or not.',
    samples: ({ id, metrics }) =>
      OPERATIONS.map((operation) => [[id, operation], metrics.requests[operation]]),
  },
  {
    name: 'cairn_export_read_bytes_total',
    type: 'counter',
    labels: VOLUME,
    help: 'Bytes that the guest has read.',
    samples: bytesOf('read'),
  },
  {
    name: 'cairn_export_written_bytes_total',
    type: 'counter',
    labels: VOLUME,
    help: 'Bytes that the guest has written.',
    samples: bytesOf('write'),
  },
  {
    name: 'cairn_export_discarded_bytes_total',
    type: 'counter',
    labels: VOLUME,
    help: 'Bytes that the guest has discarded or had zeroed.',
    samples: bytesOf('discard'),
  },
  {
    name: 'cairn_export_in_flight_requests',
    type: 'gauge',
    labels: VOLUME,
    help: 'Requests taken off the rings and not yet completed.',
    samples: of((status) => status.inFlight),
  },
  {
    name: 'cairn_export_ring_wait_seconds',
    type: 'histogram',
    labels: VOLUME,
    help: 'For each look at a ring that found requests: how long the first of them may have been there at most.',
    samples: ofRings('ring'),
  },
  {
    name: 'cairn_export_queue_seconds',
    type: 'histogram',
    labels: ['volume', 'operation'],
    help: 'From the ring to the kernel, for each request.',
    samples: ofOperations('queue'),
  },
  {
    name: 'cairn_export_file_seconds',
    type: 'histogram',
    labels: ['volume', 'operation'],
    help: 'In the kernel and in the file, for each request.',
    samples: ofOperations('file'),
  },
  {
    name: 'cairn_export_completion_seconds',
    type: 'histogram',
    labels: VOLUME,
    help: "For each publication: from the kernel's first answer to the used ring.",
    samples: ofRings('complete'),
  },
  {
    name: 'cairn_export_kicks_total',
    type: 'counter',
    labels: VOLUME,
    help: 'Times that the driver had to wake us; looks at a ring without one were polls.',
    samples: of(({ metrics }) => metrics.counters.kicks),
  },
  {
    name: 'cairn_export_calls_total',
    type: 'counter',
    labels: VOLUME,
    help: 'Times that we interrupted the driver.',
    samples: of(({ metrics }) => metrics.counters.calls),
  },
  {
    name: 'cairn_export_calls_suppressed_total',
    type: 'counter',
    labels: VOLUME,
    help: 'Publications of which the driver did not want to hear.',
    samples: of(({ metrics }) => metrics.counters.callsSuppressed),
  },
  {
    name: 'cairn_export_errors_total',
    type: 'counter',
    labels: ['volume', 'error'],
    help: 'Requests that were answered with an error.',
    samples: ofNames((status) => status.errorsByName),
  },
  {
    name: 'cairn_export_guest_faults_total',
    type: 'counter',
    labels: ['volume', 'fault'],
    help: 'Rules that the guest or its front-end broke.',
    samples: ofNames((status) => status.faultsByName),
  },
  {
    name: 'cairn_export_throttles_total',
    type: 'counter',
    labels: VOLUME,
    help: 'Times that the rate limit held a ring back.',
    samples: of(({ rate }) => rate.throttles),
  },
  {
    name: 'cairn_export_throttled_seconds_total',
    type: 'counter',
    labels: VOLUME,
    help: 'How long the rate limit held at least one ring back.',
    samples: of(({ rate }) => rate.throttledMicros / MICROS_PER_SECOND),
  },
  {
    name: 'cairn_export_limit_requests_per_second',
    type: 'gauge',
    labels: VOLUME,
    help: 'Requests a second that the guest may have for ever; absent without a limit.',
    samples: ofLimited('iops', ({ limits }) => limits?.iops ?? 0),
  },
  {
    name: 'cairn_export_limit_bytes_per_second',
    type: 'gauge',
    labels: VOLUME,
    help: 'Bytes a second that the guest may have for ever; absent without a limit.',
    samples: ofLimited('bytesPerSecond', ({ limits }) => limits?.bytesPerSecond ?? 0),
  },
  {
    name: 'cairn_export_credit_requests',
    type: 'gauge',
    labels: VOLUME,
    help: 'Requests that may go at once; below 0 is owed. Absent without a limit.',
    samples: ofLimited('iops', ({ rate }) => rate.requests),
  },
  {
    name: 'cairn_export_credit_bytes',
    type: 'gauge',
    labels: VOLUME,
    help: 'Bytes that may go at once; below 0 is owed. Absent without a limit.',
    samples: ofLimited('bytesPerSecond', ({ rate }) => rate.bytes),
  },
  {
    name: 'cairn_export_credit_full_requests',
    type: 'gauge',
    labels: VOLUME,
    help: 'What cairn_export_credit_requests is when nothing is used.',
    samples: ofLimited('iops', ({ rate }) => rate.maxRequests),
  },
  {
    name: 'cairn_export_credit_full_bytes',
    type: 'gauge',
    labels: VOLUME,
    help: 'What cairn_export_credit_bytes is when nothing is used.',
    samples: ofLimited('bytesPerSecond', ({ rate }) => rate.maxBytes),
  },
];
