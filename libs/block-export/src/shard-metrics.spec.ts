import { describe, expect, it } from 'vitest';
import { ExportArena } from './export-arena.js';
import {
  BUCKETS,
  COUNTER,
  COUNTERS,
  emptyTotal,
  HISTOGRAM,
  OPERATION,
  OPERATIONS,
  ShardMetrics,
} from './shard-metrics.js';

describe('the metrics of one volume on one thread', () => {
  const fresh = () => new ShardMetrics(new SharedArrayBuffer(ShardMetrics.BYTES), 0);
  const totalOf = (...shards: ShardMetrics[]) => {
    const total = emptyTotal();
    for (const shard of shards) shard.addTo(total);
    return total;
  };

  it('begin at nothing', () => {
    expect(totalOf(fresh())).toEqual(emptyTotal());
  });

  it('tell how many requests are in flight, whatever kinds they are', () => {
    const arena = ExportArena.make(2);
    const [one, other] = [arena.metricsOf(0), arena.metricsOf(1)];
    one.add(COUNTER.taken, 7);
    other.add(COUNTER.taken, 4);
    expect(arena.inFlight()).toBe(11);
    for (const name of OPERATIONS) one.finished(OPERATION[name], 1, 2 ** 30, 0);
    other.finished(OPERATION.read, 1, 0, 0);
    expect(arena.inFlight()).toBe(5);
  });

  it('keep every number in a place of its own', () => {
    const metrics = fresh();
    OPERATIONS.forEach((name, index) => {
      for (let times = 0; times <= index; times += 1)
        metrics.finished(OPERATION[name], 10 + index, 20 + index, 1000 + index);
    });
    COUNTERS.forEach((name, index) => metrics.add(COUNTER[name], 100 + index));
    metrics.countName(0);
    metrics.countName(emptyTotal().names.length - 1);
    metrics.observe(HISTOGRAM.ring, 40);
    metrics.observe(HISTOGRAM.complete, 50);

    const total = totalOf(metrics);
    expect(Object.values(total.requests)).toEqual([1, 2, 3, 4, 5]);
    expect(Object.values(total.counters)).toEqual(COUNTERS.map((_, index) => 100 + index));
    expect([total.names.at(0), total.names.at(-1)]).toEqual([1, 1]);
    expect(total.names.reduce((sum, count) => sum + count, 0)).toBe(2);
    const sums = OPERATIONS.map((name) => [
      total.latency[name].queue.sumMicros,
      total.latency[name].file.sumMicros,
    ]);
    const times = (each: number) => OPERATIONS.map((_, index) => (each + index) * (index + 1));
    expect(sums).toEqual(times(10).map((queue, index) => [queue, times(20)[index]]));
    expect(Object.values(total.bytes)).toEqual(times(1000));
    expect([total.ring.sumMicros, total.complete.sumMicros]).toEqual([40, 50]);
  });

  const bucketOf = (micros: number) => {
    const metrics = fresh();
    metrics.finished(OPERATION.read, micros, 0, 0);
    metrics.finished(OPERATION.write, 0, micros, 0);
    metrics.observe(HISTOGRAM.ring, micros);
    const { latency, ring } = totalOf(metrics);
    const buckets = [latency.read.queue, latency.write.file, ring].map((one) => one.buckets.indexOf(1));
    expect(new Set(buckets).size).toBe(1);
    return buckets[0];
  };

  it('count a duration in the bucket whose upper bound is the next power of two', () => {
    expect([0, 1, 2, 3, 4, 5, 8, 9, 1024, 1025].map(bucketOf)).toEqual([0, 0, 1, 2, 2, 3, 3, 4, 10, 11]);
  });

  it('count the longest in the last bucket, and a clock that went back as nothing', () => {
    expect([2 ** 22, 2 ** 22 + 1, 2 ** 31 - 1].map(bucketOf)).toEqual([22, BUCKETS - 1, BUCKETS - 1]);
    expect([-1, -(2 ** 31)].map(bucketOf)).toEqual([0, 0]);
  });

  it('add up over the threads of an export, whose numbers do not touch', () => {
    const arena = ExportArena.make(3);
    [0, 1, 2].forEach((reactor) => {
      const metrics = arena.metricsOf(reactor);
      metrics.add(COUNTER.kicks, 10 ** reactor);
      metrics.finished(OPERATION.write, 0, 0, 512);
      metrics.observe(HISTOGRAM.complete, 2 ** reactor);
    });
    arena.shared.sizeBytes = 4096;
    const total = arena.total();
    expect(total.counters.kicks).toBe(111);
    expect(total.requests.write).toBe(3);
    expect(total.complete.sumMicros).toBe(7);
    expect(ExportArena.over(arena.buffer).total()).toEqual(total);
    expect(totalOf(arena.metricsOf(1)).counters.kicks).toBe(10);
  });
});
