import { emptyTotal, type ExportStatus } from '@cairn/block-export';
import { exportStatusOf } from '@cairn/block-export/testing';
import { describe, expect, it } from 'vitest';
import { rowOf, tableOf } from './top.table.js';

const servedOf = (more: Partial<ExportStatus> = {}) => ({
  ...exportStatusOf('one', more),
  file: '/disk.img',
});

/** The cells of a row by their columns. */
const cellsOf = (...args: Parameters<typeof rowOf>) => {
  const [head, line] = tableOf([rowOf(...args)]).split('\n');
  const names = head!.trim().split(/ {2,}/);
  return Object.fromEntries(
    line!
      .trim()
      .split(/ {2,}/)
      .map((cell, i) => [names[i]!, cell]),
  );
};

describe('a line of cairn top', () => {
  it('shows an idle disk as one', () => {
    const cells = cellsOf(servedOf(), undefined, 1);
    expect(cells).toMatchObject({
      DISK: '/disk.img',
      GUEST: 'no',
      'READ/S': '0',
      'WRITE/S': '0',
      'FILE p50': '-',
      'FILE p99': '-',
      FAULTS: '0',
    });
  });

  it.each([
    ['no', {}],
    ['yes', { connected: true }],
    ['waits', { connected: true, waiting: '1 ring waits' }],
    ['FAILED', { connected: true, failed: 'fdatasync failed' }],
  ])('says of its guest: %s', (said, more) => {
    expect(cellsOf(servedOf(more), undefined, 1).GUEST).toBe(said);
  });

  it('shows what came since the last look, a second', () => {
    const before = servedOf({ bytesRead: 2 ** 20 });
    const metrics = emptyTotal();
    metrics.requests.read = 500;
    metrics.requests.write = 50;
    metrics.counters.kicks = 20;
    const now = servedOf({ metrics, bytesRead: 3 * 2 ** 20, guestFaults: 2 });
    const cells = cellsOf(now, before, 2);
    expect(cells).toMatchObject({ 'READ/S': '250', 'WRITE/S': '25', 'KICKS/S': '10', FAULTS: '2' });
    expect(cells.READ).toBe(cellsOf(servedOf({ bytesRead: 2 ** 20 }), undefined, 1).READ);
  });

  it('shows nothing below zero when the disk was served anew meanwhile', () => {
    const metrics = emptyTotal();
    metrics.requests.read = 500;
    expect(cellsOf(servedOf(), servedOf({ metrics }), 1)['READ/S']).toBe('0');
  });

  it('shows in which time half and nearly all of the reads and writes were answered', () => {
    const metrics = emptyTotal();
    const { read, write } = metrics.latency;
    read.file.buckets[3] = 90; // at most 8 µs
    write.file.buckets[11] = 10; // at most 2048 µs
    expect(cellsOf(servedOf({ metrics }), undefined, 1)).toMatchObject({
      'FILE p50': '≤8µs',
      'FILE p99': '≤2ms',
    });
    // What came before the last look does not count.
    const before = structuredClone(metrics);
    metrics.latency.write.file.buckets[5] = 4;
    const cells = cellsOf(servedOf({ metrics }), servedOf({ metrics: before }), 1);
    expect(cells).toMatchObject({ 'FILE p50': '≤32µs', 'FILE p99': '≤32µs' });
  });
});

describe('the table of cairn top', () => {
  it('has its columns aligned, the first to the left and numbers to the right', () => {
    const rows = [
      rowOf(servedOf(), undefined, 1),
      rowOf({ ...servedOf(), file: '/longer-name.img' }, undefined, 1),
    ];
    const lines = tableOf(rows).split('\n');
    expect(lines).toHaveLength(3);
    expect(new Set(lines.map((line) => line.length)).size).toBe(1);
    expect(lines.every((line) => !line.startsWith(' '))).toBe(true);
    expect(lines[0]!.indexOf('GUEST') + 'GUEST'.length).toBe(lines[1]!.indexOf('no') + 'no'.length);
  });

  it('is its head alone when nothing is served', () => {
    expect(tableOf([]).split('\n')).toHaveLength(1);
  });
});
