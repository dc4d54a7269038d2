import { parseMetrics, type MetricFamily } from '@cairn/agent';
import { MIB, newId } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { BLK_STATUS, BLK_TYPE } from '@cairn/virtio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LoneNode } from '../support/lone-node.js';

const READS = 20;
const WRITES = 30;
const volumeId = newId('vol');

describe('the metrics of a data plane whose guest has worked', () => {
  let node: LoneNode;
  let disk: FakeBlkDisk;
  let families: Map<string, MetricFamily>;

  beforeAll(async () => {
    node = await LoneNode.start({ CAIRN_REACTORS: '2' });
    disk = await FakeBlkDisk.open(await node.attach(volumeId, { sizeBytes: MIB }), {
      timeoutMs: 60_000,
    });
    for (let i = 0; i < WRITES; i += 1) await disk.write(i * 4096, Buffer.alloc(4096, i));
    await disk.flush();
    for (let i = 0; i < READS; i += 1) await disk.read(i * 8192, 8192);
    const beyond = await disk.request({ type: BLK_TYPE.IN, sector: MIB / 512, inBytes: 512 });
    expect(beyond.status).toBe(BLK_STATUS.IOERR);
    families = parseMetrics(await node.metrics());
  });
  afterAll(async () => {
    disk?.close();
    await node?.stop();
  });

  const valueOf = (name: string, labels: Record<string, string> = {}): number | undefined => {
    const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ''));
    return family?.samples.find(
      (sample) =>
        sample.name === name &&
        Object.entries({ volume: volumeId, ...labels }).every(([key, value]) => sample.labels[key] === value),
    )?.value;
  };

  it('count its requests, bytes and errors', () => {
    expect(valueOf('cairn_export_requests_total', { operation: 'write' })).toBe(WRITES);
    expect(valueOf('cairn_export_requests_total', { operation: 'read' })).toBe(READS + 1);
    expect(valueOf('cairn_export_requests_total', { operation: 'flush' })).toBe(1);
    expect(valueOf('cairn_export_written_bytes_total')).toBe(WRITES * 4096);
    expect(valueOf('cairn_export_read_bytes_total')).toBe(READS * 8192);
    expect(valueOf('cairn_export_errors_total', { error: 'out-of-range' })).toBe(1);
    expect(valueOf('cairn_export_in_flight_requests')).toBe(0);
    expect(valueOf('cairn_export_connected')).toBe(1);
  });

  it('time each of them in each layer', () => {
    for (const layer of ['queue', 'file']) {
      expect(valueOf(`cairn_export_${layer}_seconds_count`, { operation: 'write' })).toBe(WRITES);
      expect(valueOf(`cairn_export_${layer}_seconds_count`, { operation: 'read' })).toBe(READS + 1);
      expect(valueOf(`cairn_export_${layer}_seconds_count`, { operation: 'discard' })).toBeUndefined();
    }
    const inFile = valueOf('cairn_export_file_seconds_sum', { operation: 'write' })!;
    expect(inFile).toBeGreaterThan(0);
    expect(inFile).toBeLessThan(60);
    // One at a time: each was found by a look of its own, and published alone.
    const all = WRITES + READS + 2;
    expect(valueOf('cairn_export_ring_wait_seconds_count')).toBe(all);
    expect(valueOf('cairn_export_completion_seconds_count')).toBe(all);
    expect(
      valueOf('cairn_export_calls_total')! + valueOf('cairn_export_calls_suppressed_total')!,
    ).toBeGreaterThanOrEqual(all);
  });

  it('tell of the threads that served it', () => {
    const threads = families.get('cairn_reactor_rings')!.samples;
    expect(threads.map(({ labels }) => labels['reactor'])).toEqual(['0', '1']);
    expect(threads.reduce((sum, { value }) => sum + value, 0)).toBe(1);
    const total = (name: string): number =>
      families.get(name)!.samples.reduce((sum, { value }) => sum + value, 0);
    expect(total('cairn_reactor_sleeps_total')).toBeGreaterThan(0);
    expect(total('process_cpu_seconds_total')).toBeGreaterThanOrEqual(
      total('cairn_reactor_cpu_seconds_total'),
    );
  });

  it('name the rule that it broke at last', async () => {
    const outside = { gpa: 2 ** 40, lengthBytes: 512, writable: true };
    void disk.raw(disk.queues[0]!, [outside]).catch(() => undefined);
    await expect
      .poll(async () => parseMetrics(await node.metrics()).get('cairn_export_guest_faults_total')!.samples, {
        timeout: 20_000,
      })
      .toEqual([
        {
          name: 'cairn_export_guest_faults_total',
          labels: { volume: volumeId, fault: 'descriptor-outside-memory' },
          value: 1,
        },
      ]);
  });
});

describe('threads of a data plane whose guest comes back at once', () => {
  const countsWith = async (pollMicros: number): Promise<{ polls: number; sleeps: number }> => {
    const node = await LoneNode.start({ CAIRN_REACTORS: '1', CAIRN_POLL_MICROS: String(pollMicros) });
    try {
      const socket = await node.attach(newId('vol'), { sizeBytes: MIB });
      const disk = await FakeBlkDisk.open(socket, { timeoutMs: 60_000 });
      for (let i = 0; i < READS; i += 1) await disk.read(0, 4096);
      disk.close();
      const families = parseMetrics(await node.metrics());
      const total = (name: string): number =>
        families.get(name)!.samples.reduce((sum, { value }) => sum + value, 0);
      return { polls: total('cairn_reactor_polls_total'), sleeps: total('cairn_reactor_sleeps_total') };
    } finally {
      await node.stop();
    }
  };

  it('sleep at once where they may not look on', async () => {
    const { polls, sleeps } = await countsWith(0);
    expect(polls).toBe(0);
    // One for each read, but where the next one came before the thread had looked once.
    expect(sleeps).toBeGreaterThan(READS / 2);
  });

  it('look on before they sleep where they may', async () => {
    expect((await countsWith(1000)).polls).toBeGreaterThan(0);
  });
});
