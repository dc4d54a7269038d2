import type { MetricFamily, MetricSample } from '@cairn/agent';
import type { ReactorStatus } from '@cairn/block-export';
import { guestOf, noBuckets, type PoolSpace, type VolumeCounts } from './counts.js';

/** Families by name, as `parseMetrics` reads them. */
export type Families = ReadonlyMap<string, MetricFamily>;

/** The counts of every export of a data plane, from its metrics. */
export function volumesIn(families: Families): VolumeCounts[] {
  const at = indexOf(families, 'volume');
  return samplesOf(families, 'cairn_export_connected').map(({ labels, value }) => {
    const volume = labels['volume'] ?? '';
    const of = (name: string, more: Readonly<Record<string, string>> = {}): number =>
      at(name, volume)
        .filter((sample) => Object.entries(more).every(([label, text]) => sample.labels[label] === text))
        .reduce((sum, sample) => sum + sample.value, 0);
    const requests = 'cairn_export_requests_total';
    const [reads, writes] = [of(requests, { operation: 'read' }), of(requests, { operation: 'write' })];
    return {
      volume,
      guest: guestOf({
        connected: value === 1,
        waiting: of('cairn_export_waiting') === 1,
        failed: of('cairn_export_failed') === 1,
      }),
      reads,
      writes,
      others: of(requests) - reads - writes,
      readBytes: of('cairn_export_read_bytes_total'),
      writtenBytes: of('cairn_export_written_bytes_total'),
      inFlight: of('cairn_export_in_flight_requests'),
      latency: {
        ring: bucketsOf(at('cairn_export_ring_wait_seconds', volume)),
        queue: bucketsOf(at('cairn_export_queue_seconds', volume)),
        file: bucketsOf(at('cairn_export_file_seconds', volume)),
        completion: bucketsOf(at('cairn_export_completion_seconds', volume)),
      },
      throttledSeconds: of('cairn_export_throttled_seconds_total'),
      kicks: of('cairn_export_kicks_total'),
      calls: of('cairn_export_calls_total'),
      faults: of('cairn_export_guest_faults_total'),
      errors: of('cairn_export_errors_total'),
    };
  });
}

/** What the threads of a data plane have counted, from its metrics. */
export function reactorsIn(families: Families): ReactorStatus[] {
  const at = indexOf(families, 'reactor');
  return samplesOf(families, 'cairn_reactor_rings').map(({ labels, value }) => {
    const reactor = labels['reactor'] ?? '';
    const of = (name: string, outcome?: string): number =>
      at(name, reactor).find((sample) => sample.labels['outcome'] === outcome)?.value ?? 0;
    return {
      reactor: Number(reactor),
      rings: value,
      cpuSeconds: of('cairn_reactor_cpu_seconds_total'),
      sleeps: of('cairn_reactor_sleeps_total'),
      pollsMet: of('cairn_reactor_polls_total', 'met'),
      pollsInVain: of('cairn_reactor_polls_total', 'vain'),
      shortages: of('cairn_reactor_shortages_total'),
    };
  });
}

/** What room the pools of a data plane have, from its metrics. */
export function poolsIn(families: Families): PoolSpace[] {
  const at = indexOf(families, 'pool');
  return samplesOf(families, 'cairn_pool_total_bytes').map(({ labels, value }) => {
    const pool = labels['pool'] ?? '';
    const of = (name: string): number => at(name, pool)[0]?.value ?? 0;
    return {
      pool,
      totalBytes: value,
      freeBytes: of('cairn_pool_free_bytes'),
      promisedBytes: of('cairn_pool_provisioned_bytes'),
      lowSpace: of('cairn_pool_low_space') === 1,
    };
  });
}

const samplesOf = (families: Families, name: string): readonly MetricSample[] =>
  families.get(name)?.samples ?? [];

/** Finds the samples of a family that have one value of a label, having looked through each family once. */
function indexOf(
  families: Families,
  label: string,
): (name: string, value: string) => readonly MetricSample[] {
  const indexes = new Map<string, Map<string, MetricSample[]>>();
  return (name, value) => {
    let index = indexes.get(name);
    if (index === undefined) {
      indexes.set(name, (index = new Map()));
      for (const sample of samplesOf(families, name)) {
        const key = sample.labels[label] ?? '';
        const list = index.get(key);
        if (list === undefined) index.set(key, [sample]);
        else list.push(sample);
      }
    }
    return index.get(value) ?? [];
  };
}

/** How many of a histogram's series took at most 2^i µs and longer than half of that; the text counts from 0. */
function bucketsOf(samples: readonly MetricSample[]): number[] {
  const buckets = noBuckets();
  let bucket = 0;
  let before = 0;
  for (const { name, value } of samples) {
    if (!name.endsWith('_bucket')) {
      bucket = before = 0;
      continue;
    }
    buckets[bucket]! += value - before;
    before = value;
    bucket += 1;
  }
  return buckets;
}
