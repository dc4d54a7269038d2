import { describe, expect, it } from 'vitest';
import type { NodeRates, VolumeRates } from './rates.js';
import { SORTS, type Sort, sorted, tableOf } from './top.table.js';

const volume = (name: string, more: Partial<VolumeRates> = {}): VolumeRates => ({
  volume: name,
  guest: 'yes',
  readsPerSecond: 0,
  writesPerSecond: 0,
  othersPerSecond: 0,
  readBytesPerSecond: 0,
  writtenBytesPerSecond: 0,
  inFlight: 0,
  latencyMicros: { ring: {}, queue: {}, file: {}, completion: {} },
  throttledShare: 0,
  looksPerSecond: 0,
  kicksPerSecond: 0,
  callsPerSecond: 0,
  faults: 0,
  errors: 0,
  ...more,
});
const nodeOf = (...volumes: VolumeRates[]): NodeRates => ({
  seconds: 1,
  volumes,
  reactors: [],
  pools: [],
});
const reactor = {
  reactor: 0,
  rings: 4,
  cpuShare: 0.125,
  sleepsPerSecond: 20,
  pollsMetPerSecond: 30,
  pollsInVainPerSecond: 10,
};

/** The cells of the only row by their columns. */
const cellsOf = (rates: VolumeRates): Record<string, string> => {
  const [head, line] = tableOf(nodeOf(rates), 'iops').split('\n');
  const cells = line!.trim().split(/ {2,}/);
  return Object.fromEntries(
    head!
      .trim()
      .split(/ {2,}/)
      .map((name, index) => [name, cells[index]!]),
  );
};

describe('a line of cairn top', () => {
  it('shows an idle disk as one', () => {
    expect(cellsOf(volume('one'))).toEqual({
      VOLUME: 'one',
      GUEST: 'yes',
      'READ/S': '0',
      'WRITE/S': '0',
      READ: '0 B/s',
      WRITE: '0 B/s',
      DEPTH: '0',
      'RING p50/p99': '-',
      QUEUE: '-',
      FILE: '-',
      DONE: '-',
      THROTTLED: '0%',
      KICKED: '-',
      FAULTS: '0',
      ERRORS: '0',
    });
  });

  it('shows a busy one with units that a person reads', () => {
    const rates = volume('two', {
      readsPerSecond: 1234.5,
      readBytesPerSecond: 5 * 2 ** 20,
      latencyMicros: {
        ring: { p50: 4, p99: Infinity },
        queue: { p50: 1, p99: 512 },
        file: { p50: 1024, p99: 2 ** 21 },
        completion: { p50: 1, p99: 1 },
      },
      throttledShare: 0.254,
      looksPerSecond: 1000,
      kicksPerSecond: 50,
      faults: 3,
      errors: 2,
    });
    expect(cellsOf(rates)).toMatchObject({
      'READ/S': '1235',
      READ: '5 MiB/s',
      'RING p50/p99': '4µs/>4s',
      QUEUE: '1µs/512µs',
      FILE: '1ms/2s',
      THROTTLED: '25%',
      KICKED: '5%',
      FAULTS: '3',
      ERRORS: '2',
    });
  });
});

describe('the table of cairn top', () => {
  it('has its columns aligned, the first to the left and numbers to the right', () => {
    const lines = tableOf(nodeOf(volume('a'), volume('a-longer-name')), 'iops').split('\n');
    expect(lines).toHaveLength(3);
    expect(new Set(lines.map((line) => line.length)).size).toBe(1);
    expect(lines.every((line) => !line.startsWith(' '))).toBe(true);
    expect(lines[0]!.indexOf('GUEST') + 'GUEST'.length).toBe(lines[1]!.indexOf('yes') + 'yes'.length);
  });

  it('is its head alone when nothing is served', () => {
    expect(tableOf(nodeOf(), 'iops').split('\n')).toHaveLength(1);
  });

  it('says below what the threads do', () => {
    const text = tableOf({ ...nodeOf(volume('a')), reactors: [reactor] }, 'iops');
    expect(text.split('\n').at(-1)).toBe('reactor 0: 13% CPU, 4 rings, 20 sleeps/s, 40 polls/s, 75% met');
  });

  it('says at the end what room the pools have, and which is low', () => {
    const pool = { pool: 'pool-1', totalBytes: 2 ** 30, freeBytes: 2 ** 29, promisedBytes: 2 ** 31 };
    const pools = [
      { ...pool, lowSpace: false },
      { ...pool, pool: 'pool-2', lowSpace: true },
    ];
    const volumes = ['a', 'b', 'c'].map((name) => volume(name));
    const lines = tableOf({ ...nodeOf(...volumes), reactors: [reactor], pools }, 'iops', 7).split('\n');
    expect(lines.length).toBeLessThanOrEqual(6);
    expect(lines.slice(-2)).toEqual([
      'pool-1: 512 MiB of 1 GiB free, 2 GiB promised',
      'pool-2: 512 MiB of 1 GiB free, 2 GiB promised, LOW ON SPACE',
    ]);
  });

  it('fits into a terminal, and says what it leaves out', () => {
    const many = Array.from({ length: 50 }, (_, index) => volume(`v${index}`, { readsPerSecond: index }));
    const lines = tableOf({ ...nodeOf(...many), reactors: [reactor] }, 'iops', 24).split('\n');
    expect(lines.length).toBeLessThanOrEqual(23);
    expect(lines[1]).toMatch(/^v49 /);
    const shown = lines.filter((line) => line.startsWith('v')).length;
    expect(lines).toContain(`… and ${50 - shown} more`);
    expect(tableOf(nodeOf(...many), 'iops').split('\n')).toHaveLength(51);
  });

  const first: Record<Sort, VolumeRates> = {
    iops: volume('z', { writesPerSecond: 5, othersPerSecond: 5 }),
    bytes: volume('z', { writtenBytesPerSecond: 1 }),
    latency: volume('z', { latencyMicros: { ring: {}, queue: {}, file: { p99: 8 }, completion: {} } }),
    depth: volume('z', { inFlight: 1 }),
    throttled: volume('z', { throttledShare: 0.1 }),
    faults: volume('z', { errors: 1 }),
    name: volume('a0'),
  };
  it.each(SORTS)('is sorted by %s, then by name', (by) => {
    const rest = [volume('c'), volume('b'), volume('a')];
    const names = sorted([...rest, first[by]], by).map((rates) => rates.volume);
    expect(names).toEqual(by === 'name' ? ['a', 'a0', 'b', 'c'] : ['z', 'a', 'b', 'c']);
  });
});
