import {
  type GuestState,
  type Layer,
  LAYERS,
  noBuckets,
  type PoolSpace,
  type Sample,
  type VolumeCounts,
} from './counts.js';

/** Upper bounds in microseconds; infinite = above the last bound, absent = there was no request. */
export interface Quantiles {
  p50?: number;
  p99?: number;
}

/** What a volume did between two looks; faults, errors and requests in flight are as they are now. */
export interface VolumeRates {
  volume: string;
  guest: GuestState;
  readsPerSecond: number;
  writesPerSecond: number;
  othersPerSecond: number;
  readBytesPerSecond: number;
  writtenBytesPerSecond: number;
  inFlight: number;
  latencyMicros: Record<Layer, Quantiles>;
  /** What part of the time its limit held it back. */
  throttledShare: number;
  /** Times a second that requests were found, that the driver had to wake us for it, and that we interrupted it. */
  looksPerSecond: number;
  kicksPerSecond: number;
  callsPerSecond: number;
  faults: number;
  errors: number;
}

/** What a reactor thread did between two looks. */
export interface ReactorRates {
  reactor: number;
  rings: number;
  /** Part of a core. */
  cpuShare: number;
  sleepsPerSecond: number;
  pollsMetPerSecond: number;
  pollsInVainPerSecond: number;
}

/** What a node did between two looks. */
export interface NodeRates {
  seconds: number;
  volumes: VolumeRates[];
  reactors: ReactorRates[];
  /** As they are now. */
  pools: PoolSpace[];
}

/** Compares two looks. Who was started anew meanwhile counts from then. */
export function ratesOf(now: Sample, before: Sample): NodeRates {
  const seconds = (now.atMs - before.atMs) / 1000;
  const perSecond = <Counts>(current: Counts, earlier: Counts | undefined) => {
    const restarted = earlier === undefined;
    return (pick: (counts: Counts) => number): number =>
      Math.max(0, (pick(current) - (restarted ? 0 : pick(earlier))) / seconds);
  };
  const volumesBefore = new Map(before.volumes.map((counts) => [counts.volume, counts]));
  const reactorsBefore = new Map(before.reactors.map((counts) => [counts.reactor, counts]));
  return {
    seconds,
    volumes: now.volumes.map((counts) => {
      const earlier = volumesBefore.get(counts.volume);
      return volumeRates(counts, earlier, perSecond(counts, earlier));
    }),
    reactors: now.reactors.map((counts) => {
      const rate = perSecond(counts, reactorsBefore.get(counts.reactor));
      return {
        reactor: counts.reactor,
        rings: counts.rings,
        cpuShare: rate(({ cpuSeconds }) => cpuSeconds),
        sleepsPerSecond: rate(({ sleeps }) => sleeps),
        pollsMetPerSecond: rate(({ pollsMet }) => pollsMet),
        pollsInVainPerSecond: rate(({ pollsInVain }) => pollsInVain),
      };
    }),
    pools: now.pools,
  };
}

function volumeRates(
  now: VolumeCounts,
  before: VolumeCounts | undefined,
  rate: (pick: (counts: VolumeCounts) => number) => number,
): VolumeRates {
  const between = (layer: Layer): number[] =>
    noBuckets().map((_, bucket) =>
      Math.max(0, now.latency[layer][bucket]! - (before?.latency[layer][bucket] ?? 0)),
    );
  const quantiles = LAYERS.map((layer) => [layer, quantilesOf(between(layer))] as const);
  return {
    volume: now.volume,
    guest: now.guest,
    readsPerSecond: rate(({ reads }) => reads),
    writesPerSecond: rate(({ writes }) => writes),
    othersPerSecond: rate(({ others }) => others),
    readBytesPerSecond: rate(({ readBytes }) => readBytes),
    writtenBytesPerSecond: rate(({ writtenBytes }) => writtenBytes),
    inFlight: now.inFlight,
    latencyMicros: Object.fromEntries(quantiles) as Record<Layer, Quantiles>,
    throttledShare: Math.min(
      1,
      rate(({ throttledSeconds }) => throttledSeconds),
    ),
    looksPerSecond: rate(({ latency }) => latency.ring.reduce((sum, count) => sum + count, 0)),
    kicksPerSecond: rate(({ kicks }) => kicks),
    callsPerSecond: rate(({ calls }) => calls),
    faults: now.faults,
    errors: now.errors,
  };
}

/** Upper bounds of the buckets in which half and nearly all of the requests end. */
function quantilesOf(buckets: readonly number[]): Quantiles {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  if (total === 0) return {};
  const bound = (part: number): number => {
    let seen = 0;
    const bucket = buckets.findIndex((count) => {
      seen += count;
      return seen >= total * part;
    });
    return bucket === buckets.length - 1 ? Infinity : 2 ** bucket;
  };
  return { p50: bound(0.5), p99: bound(0.99) };
}
