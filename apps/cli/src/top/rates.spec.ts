import { emptyTotal, type ExportStatus } from '@cairn/block-export';
import { exportStatusOf } from '@cairn/block-export/testing';
import { describe, expect, it } from 'vitest';
import { countsOf, type Sample } from './counts.js';
import { ratesOf } from './rates.js';

const countsOfExport = (more: Partial<ExportStatus> = {}) =>
  countsOf({ ...exportStatusOf('0', more), file: '/disk.img' });
const sampleOf = (atMs: number, more: Partial<ExportStatus> = {}): Sample => ({
  atMs,
  volumes: [countsOfExport(more)],
  reactors: [],
  pools: [],
});
const ratesBetween = (before: Partial<ExportStatus>, now: Partial<ExportStatus>, seconds = 2) =>
  ratesOf(sampleOf(seconds * 1000, now), sampleOf(0, before)).volumes[0]!;

describe('what came between two looks', () => {
  it('is nothing for an idle disk, and no latency', () => {
    expect(ratesBetween({}, {})).toMatchObject({
      volume: '/disk.img',
      guest: 'no',
      readsPerSecond: 0,
      latencyMicros: { ring: {}, queue: {}, file: {}, completion: {} },
      throttledShare: 0,
    });
  });

  it.each([
    ['no', {}],
    ['yes', { connected: true }],
    ['waits', { connected: true, waiting: '1 ring waits' }],
    ['FAILED', { connected: true, failed: 'fdatasync failed' }],
  ])('says of its guest: %s', (guest, more) => {
    expect(ratesBetween({}, more).guest).toBe(guest);
  });

  it('is told a second', () => {
    const before = emptyTotal();
    before.bytes.read = 4096;
    const now = structuredClone(before);
    now.requests.read = 500;
    now.requests.write = 50;
    now.requests.flush = 4;
    now.requests.discard = 2;
    now.bytes.read = 4096 + 2 * 1024;
    now.counters.kicks = 20;
    now.counters.calls = 30;
    now.ring.buckets[2] = 40;
    expect(
      ratesBetween(
        { metrics: before },
        { metrics: now, inFlight: 3, guestFaults: 2, errorsByName: { EIO: 5 } },
      ),
    ).toMatchObject({
      readsPerSecond: 250,
      writesPerSecond: 25,
      othersPerSecond: 3,
      readBytesPerSecond: 1024,
      kicksPerSecond: 10,
      callsPerSecond: 15,
      looksPerSecond: 20,
      inFlight: 3,
      faults: 2,
      errors: 5,
    });
  });

  it('has the latency of all requests of that time, layer by layer', () => {
    const before = emptyTotal();
    before.latency.read.file.buckets[23] = 1000;
    const now = structuredClone(before);
    now.latency.read.file.buckets[3] = 90; // at most 8 µs
    now.latency.write.file.buckets[11] = 10; // at most 2048 µs
    now.latency.flush.queue.buckets[0] = 1;
    now.ring.buckets[23] = 1; // longer than 4 s
    now.complete.buckets[1] = 1;
    expect(ratesBetween({ metrics: before }, { metrics: now }).latencyMicros).toEqual({
      ring: { p50: Infinity, p99: Infinity },
      queue: { p50: 1, p99: 1 },
      file: { p50: 8, p99: 2048 },
      completion: { p50: 2, p99: 2 },
    });
  });

  it('says which part of the time it was throttled', () => {
    const of = (throttledMicros: number) => ({
      rate: { ...exportStatusOf('0').rate, throttledMicros },
    });
    expect(ratesBetween(of(1_000_000), of(2_500_000)).throttledShare).toBe(0.75);
    expect(ratesBetween(of(0), of(9_000_000)).throttledShare).toBe(1);
  });

  it('is not below zero when the disk was served anew meanwhile, and all of it when it is new', () => {
    const metrics = emptyTotal();
    metrics.requests.read = 500;
    metrics.latency.read.file.buckets[3] = 500;
    expect(ratesBetween({ metrics }, {})).toMatchObject({ readsPerSecond: 0, latencyMicros: { file: {} } });
    const fresh = ratesOf(sampleOf(1000, { metrics }), { atMs: 0, volumes: [], reactors: [], pools: [] });
    expect(fresh.volumes[0]?.readsPerSecond).toBe(500);
  });

  it('has the threads, too', () => {
    const reactor = {
      reactor: 1,
      rings: 2,
      cpuSeconds: 5,
      sleeps: 10,
      pollsMet: 0,
      pollsInVain: 4,
      shortages: 0,
    };
    const before: Sample = { atMs: 0, volumes: [], reactors: [reactor], pools: [] };
    const later = { ...reactor, cpuSeconds: 6.5, sleeps: 30, pollsMet: 8, pollsInVain: 4 };
    expect(ratesOf({ atMs: 2000, volumes: [], reactors: [later], pools: [] }, before).reactors).toEqual([
      {
        reactor: 1,
        rings: 2,
        cpuShare: 0.75,
        sleepsPerSecond: 10,
        pollsMetPerSecond: 4,
        pollsInVainPerSecond: 0,
      },
    ]);
  });
});
