import { readFileSync } from 'node:fs';
import { parseMetrics } from '@cairn/agent';
import type { ExportStatus } from '@cairn/block-export';
import { exportStatusOf } from '@cairn/block-export/testing';
import { describe, expect, it } from 'vitest';
import { families, MetricsText } from './metrics.text.js';

const one = 'vol-0123456789abcdef';
const two = 'vol-00000000000000ff';
const pool = {
  poolId: 'pool-0123456789abcdef',
  capacity: async () => ({ totalBytes: 3, freeBytes: 2, provisionedBytes: 1 }),
};

const textOf = (statuses: ExportStatus[]): Promise<string> =>
  new MetricsText(
    {
      statuses: async () => statuses,
      reactorStatuses: () => [
        { reactor: 0, cpuSeconds: 1.25, rings: 3, sleeps: 7, pollsMet: 5, pollsInVain: 6, shortages: 2 },
      ],
    },
    pool,
    70,
  ).render();

/** The values of a family by its labels. */
const valuesOf = async (name: string, statuses: ExportStatus[]): Promise<Record<string, number>> => {
  const family = parseMetrics(await textOf(statuses)).get(name)!;
  return Object.fromEntries(
    family.samples.map((sample) => [Object.values(sample.labels).join(' '), sample.value]),
  );
};

describe('the metrics of a node', () => {
  it('are in the Prometheus text format, whatever there is to tell', async () => {
    const busy = exportStatusOf(one, { connected: true, faultsByName: { 'head-out-of-range': 1 } });
    busy.metrics.requests.read = 3;
    busy.metrics.latency.read.file.buckets[4] = 3;
    for (const statuses of [[], [busy], [busy, exportStatusOf(two, { failed: 'EIO' })]])
      expect([...parseMetrics(await textOf(statuses)).keys()]).toEqual(families.map(({ name }) => name));
  });

  it('have names with base units, and no unit twice', () => {
    for (const { name, type } of families) {
      expect(name).toMatch(/^(cairn|process)_[a-z_]+$/);
      expect(name).not.toMatch(/micro|milli|kilo|_ms|_us|_mb|_kib|percent/);
      if (type === 'histogram') expect(name).toMatch(/_seconds$/);
      expect(name.endsWith('_total')).toBe(type === 'counter');
    }
  });

  it('tell of each volume', async () => {
    const statuses = [exportStatusOf(one, { connected: true }), exportStatusOf(two, { failed: 'EIO' })];
    expect(await valuesOf('cairn_export_connected', statuses)).toEqual({ [one]: 1, [two]: 0 });
    expect(await valuesOf('cairn_export_failed', statuses)).toEqual({ [one]: 0, [two]: 1 });
  });

  it('have latencies as histograms in seconds, of the requests that there were', async () => {
    const status = exportStatusOf(one);
    const { metrics } = status;
    metrics.requests.write = 4;
    metrics.latency.write.file.sumMicros = 2_500_000;
    metrics.latency.write.file.buckets[0] = 1; // at most 1 µs
    metrics.latency.write.file.buckets[10] = 2; // at most 1024 µs
    metrics.latency.write.file.buckets[23] = 1; // longer than 4.2 s
    const { samples } = parseMetrics(await textOf([status])).get('cairn_export_file_seconds')!;
    const bucket = (le: string): number | undefined =>
      samples.find(({ labels }) => labels['le'] === le)?.value;
    expect(['0.000001', '0.000512', '0.001024', '4.194304', '+Inf'].map(bucket)).toEqual([1, 1, 3, 3, 4]);
    expect(samples.filter(({ labels }) => labels['le'] === undefined)).toEqual([
      { name: 'cairn_export_file_seconds_sum', labels: { volume: one, operation: 'write' }, value: 2.5 },
      { name: 'cairn_export_file_seconds_count', labels: { volume: one, operation: 'write' }, value: 4 },
    ]);
  });

  it('have no histogram of what never was', async () => {
    const histograms = async (status: ExportStatus): Promise<string[]> =>
      [...parseMetrics(await textOf([status])).values()]
        .filter(({ type, samples }) => type === 'histogram' && samples.length > 0)
        .map(({ name }) => name);
    const status = exportStatusOf(one);
    expect(await histograms(status)).toEqual([]);
    status.metrics.ring.buckets[3] = 1;
    expect(await histograms(status)).toEqual(['cairn_export_ring_wait_seconds']);
  });

  it('count requests by operation, errors and faults by kind', async () => {
    const status = exportStatusOf(one, { errorsByName: { ENOSPC: 2 }, faultsByName: { 'bad-"name"': 1 } });
    status.metrics.requests.flush = 9;
    expect(await valuesOf('cairn_export_requests_total', [status])).toMatchObject({
      [`${one} flush`]: 9,
      [`${one} read`]: 0,
    });
    expect(await valuesOf('cairn_export_errors_total', [status])).toEqual({ [`${one} ENOSPC`]: 2 });
    expect(await valuesOf('cairn_export_guest_faults_total', [status])).toEqual({ [`${one} bad-"name"`]: 1 });
  });

  it('tell limits and credits of the volumes that have any', async () => {
    const limits = {
      iops: 100,
      iopsBurst: 300,
      iopsBurstSeconds: 10,
      bytesPerSecond: 0,
      bytesBurst: 0,
      bytesBurstSeconds: 0,
      iopsUnitBytes: 0,
    };
    const rate = {
      requests: -1.5,
      bytes: 0,
      maxRequests: 2030,
      maxBytes: 0,
      throttles: 4,
      throttledMicros: 1_500_000,
    };
    const statuses = [exportStatusOf(one, { limits, rate }), exportStatusOf(two)];
    expect(await valuesOf('cairn_export_limit_requests_per_second', statuses)).toEqual({ [one]: 100 });
    expect(await valuesOf('cairn_export_limit_bytes_per_second', statuses)).toEqual({});
    expect(await valuesOf('cairn_export_credit_requests', statuses)).toEqual({ [one]: -1.5 });
    expect(await valuesOf('cairn_export_credit_full_requests', statuses)).toEqual({ [one]: 2030 });
    expect(await valuesOf('cairn_export_throttled_seconds_total', statuses)).toEqual({
      [one]: 1.5,
      [two]: 0,
    });
  });

  it('tell of threads, pool and process', async () => {
    expect(await valuesOf('cairn_reactor_polls_total', [])).toEqual({ '0 met': 5, '0 vain': 6 });
    expect(await valuesOf('cairn_reactor_shortages_total', [])).toEqual({ '0': 2 });
    expect(await valuesOf('cairn_pool_free_bytes', [])).toEqual({ [pool.poolId]: 2 });
    expect(await valuesOf('cairn_pool_low_space', [])).toEqual({ [pool.poolId]: 1 });
    const [rss] = Object.values(await valuesOf('process_resident_memory_bytes', []));
    expect(rss).toBeGreaterThan(2 ** 20);
  });

  it('are all in docs/metrics.md, as they are', () => {
    const text = readFileSync(new URL('../../../../docs/metrics.md', import.meta.url), 'utf8');
    const rows = text.matchAll(/^\| `([a-z_]+)` +\| (\w+) +\| (.*?) +\| (.*?) +\|$/gm);
    const documented = [...rows].map(([, name, type, labels, help]) => ({ name, type, labels, help }));
    expect(documented).toEqual(
      families.map(({ name, type, labels, help }) => ({
        name,
        type,
        labels: labels.join(', ') || '–',
        help,
      })),
    );
  });
});
