import type { ExportStatus, Latency } from '@cairn/block-export';
import { formatBytes } from '@cairn/domain';

type Served = ExportStatus & { file: string };

/** What was seen at one moment (milliseconds). */
export interface Sample {
  at: number;
  exports: Served[];
}

const COLUMNS = [
  'DISK',
  'GUEST',
  'READ/S',
  'WRITE/S',
  'READ',
  'WRITE',
  'FILE p50',
  'FILE p99',
  'KICKS/S',
  'WAITS/S',
  'FAULTS',
];

/** One disk's line: rates over `seconds`, and latency in the file of the reads and writes of that time. */
export function rowOf(now: Served, before: Served | undefined, seconds: number): string[] {
  const rate = (pick: (status: Served) => number): number =>
    Math.max(0, (pick(now) - (before ? pick(before) : 0)) / seconds);
  const count = (pick: (status: Served) => number): string => rate(pick).toFixed(0);
  const latency = difference(now, before);
  return [
    now.file,
    now.failed ? 'FAILED' : now.waiting ? 'waits' : now.connected ? 'yes' : 'no',
    count((status) => status.metrics.requests.read),
    count((status) => status.metrics.requests.write),
    `${formatBytes(rate((status) => status.bytesRead))}/s`,
    `${formatBytes(rate((status) => status.bytesWritten))}/s`,
    quantile(latency, 0.5),
    quantile(latency, 0.99),
    count((status) => status.metrics.counters.kicks),
    count((status) => status.rate.throttles),
    `${now.guestFaults}`,
  ];
}

/** The table as text, columns aligned. */
export function tableOf(rows: readonly string[][]): string {
  const lines = [COLUMNS, ...rows];
  const widths = COLUMNS.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const pad = (text: string, column: number): string =>
    column === 0 ? text.padEnd(widths[column]!) : text.padStart(widths[column]!);
  return lines.map((line) => line.map(pad).join('  ')).join('\n');
}

/** Buckets of the reads and writes that came between two looks. */
const difference = (now: Served, before: Served | undefined): number[] => {
  const of = (status: Served | undefined): Latency[] =>
    status ? [status.metrics.latency.read.file, status.metrics.latency.write.file] : [];
  const sum = (latencies: Latency[], bucket: number): number =>
    latencies.reduce((total, latency) => total + latency.buckets[bucket]!, 0);
  return now.metrics.latency.read.file.buckets.map(
    (_, bucket) => sum(of(now), bucket) - sum(of(before), bucket),
  );
};

/** Upper bound of the bucket in which that part of the requests ends. */
const quantile = (buckets: readonly number[], part: number): string => {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  if (total === 0) return '-';
  let seen = 0;
  const bucket = buckets.findIndex((count) => {
    seen += count;
    return seen >= total * part;
  });
  const micros = 2 ** bucket;
  return micros < 1000 ? `≤${micros}µs` : `≤${(micros / 1000).toFixed(0)}ms`;
};
