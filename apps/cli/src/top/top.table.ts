import { formatBytes } from '@cairn/domain';
import { type Layer, LAYERS, type PoolSpace } from './counts.js';
import type { NodeRates, Quantiles, ReactorRates, VolumeRates } from './rates.js';

/** What the table can be sorted by: most first, names from A to Z. */
export const SORTS = ['iops', 'bytes', 'latency', 'depth', 'throttled', 'faults', 'name'] as const;
export type Sort = (typeof SORTS)[number];

const keys: Record<Exclude<Sort, 'name'>, (rates: VolumeRates) => number> = {
  iops: (rates) => rates.readsPerSecond + rates.writesPerSecond + rates.othersPerSecond,
  bytes: (rates) => rates.readBytesPerSecond + rates.writtenBytesPerSecond,
  latency: ({ latencyMicros }) => LAYERS.reduce((sum, layer) => sum + (latencyMicros[layer].p99 ?? 0), 0),
  depth: (rates) => rates.inFlight,
  throttled: (rates) => rates.throttledShare,
  faults: (rates) => rates.faults + rates.errors,
};

const layerTitles: Record<Layer, string> = {
  ring: 'RING p50/p99',
  queue: 'QUEUE',
  file: 'FILE',
  completion: 'DONE',
};

const columns: readonly (readonly [title: string, cell: (rates: VolumeRates) => string])[] = [
  ['VOLUME', ({ volume }) => volume],
  ['GUEST', ({ guest }) => guest],
  ['READ/S', (rates) => rates.readsPerSecond.toFixed(0)],
  ['WRITE/S', (rates) => rates.writesPerSecond.toFixed(0)],
  ['READ', (rates) => `${formatBytes(Math.round(rates.readBytesPerSecond))}/s`],
  ['WRITE', (rates) => `${formatBytes(Math.round(rates.writtenBytesPerSecond))}/s`],
  ['DEPTH', ({ inFlight }) => `${inFlight}`],
  ...LAYERS.map(
    (layer) => [layerTitles[layer], (rates: VolumeRates) => quantiles(rates.latencyMicros[layer])] as const,
  ),
  ['THROTTLED', ({ throttledShare }) => percent(throttledShare)],
  [
    'KICKED',
    (rates) => (rates.looksPerSecond > 0 ? percent(rates.kicksPerSecond / rates.looksPerSecond) : '-'),
  ],
  ['FAULTS', ({ faults }) => `${faults}`],
  ['ERRORS', ({ errors }) => `${errors}`],
];

/** The volumes in the order that was asked for; equals by name. */
export function sorted(volumes: readonly VolumeRates[], by: Sort): VolumeRates[] {
  const byName = (a: VolumeRates, b: VolumeRates): number => (a.volume < b.volume ? -1 : 1);
  if (by === 'name') return volumes.toSorted(byName);
  const key = keys[by];
  return volumes.toSorted((a, b) => key(b) - key(a) || byName(a, b));
}

/** The table as text, columns aligned, then a line for each thread and pool; `rows`: the most lines to fill. */
export function tableOf({ volumes, reactors, pools }: NodeRates, by: Sort, rows = Infinity): string {
  const room = Math.max(1, rows - reactors.length - pools.length - 2);
  const shown = volumes.length > room ? sorted(volumes, by).slice(0, room - 1) : sorted(volumes, by);
  const lines = [
    columns.map(([title]) => title),
    ...shown.map((rates) => columns.map(([, cell]) => cell(rates))),
  ];
  const widths = columns.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const pad = (text: string, column: number): string =>
    column === 0 ? text.padEnd(widths[column]!) : text.padStart(widths[column]!);
  const more = volumes.length - shown.length;
  return [
    ...lines.map((line) => line.map(pad).join('  ')),
    ...(more > 0 ? [`… and ${more} more`] : []),
    ...reactors.map(reactorLine),
    ...pools.map(poolLine),
  ].join('\n');
}

const reactorLine = (rates: ReactorRates): string => {
  const polls = rates.pollsMetPerSecond + rates.pollsInVainPerSecond;
  return [
    `reactor ${rates.reactor}: ${percent(rates.cpuShare)} CPU`,
    `${rates.rings} rings`,
    `${rates.sleepsPerSecond.toFixed(0)} sleeps/s`,
    `${polls.toFixed(0)} polls/s${polls > 0 ? `, ${percent(rates.pollsMetPerSecond / polls)} met` : ''}`,
  ].join(', ');
};

const poolLine = ({ pool, totalBytes, freeBytes, promisedBytes, lowSpace }: PoolSpace): string => {
  const space = `${pool}: ${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free, ${formatBytes(promisedBytes)} promised`;
  return lowSpace ? `${space}, LOW ON SPACE` : space;
};

const percent = (share: number): string => `${(share * 100).toFixed(0)}%`;

const quantiles = ({ p50, p99 }: Quantiles): string =>
  p50 === undefined || p99 === undefined ? '-' : `${micros(p50)}/${micros(p99)}`;

const micros = (bound: number): string => {
  if (bound === Infinity) return '>4s';
  if (bound < 1000) return `${bound}µs`;
  return bound < 1_000_000 ? `${(bound / 1000).toFixed(0)}ms` : `${(bound / 1_000_000).toFixed(0)}s`;
};
