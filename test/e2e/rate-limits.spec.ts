import { parseMetrics } from '@cairn/agent';
import { MIB, newId } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LoneNode } from '../support/lone-node.js';

const volumeId = newId('vol');
const REQUESTS = 40;

describe('limits that the agent of a node sets', () => {
  let node: LoneNode;
  let disk: FakeBlkDisk;
  let socket: string;

  beforeAll(async () => {
    node = await LoneNode.start();
    socket = await node.attach(volumeId, { sizeBytes: MIB });
    disk = await FakeBlkDisk.open(socket, { timeoutMs: 60_000, inflight: true });
  });
  afterAll(async () => {
    disk?.close();
    await node?.stop();
  });

  /** How long that many requests take at once, in seconds. */
  const secondsFor = async (requests: number): Promise<number> => {
    const began = performance.now();
    await Promise.all(Array.from({ length: requests }, (_, i) => disk.read((i % 64) * 4096, 4096)));
    return (performance.now() - began) / 1000;
  };
  const throttledSeconds = async (): Promise<number> =>
    parseMetrics(await node.metrics())
      .get('cairn_export_throttled_seconds_total')!
      .samples.reduce((sum, { value }) => sum + value, 0);

  it('hold the guest back while it is attached, and let it go again', async () => {
    await node.agent.putExportLimits(volumeId, { generation: 1, limits: { iops: 20 } });
    // Two may go at once, the others at their rate.
    expect(await secondsFor(REQUESTS)).toBeGreaterThan((REQUESTS - 2) / 20 - 0.1);
    const throttled = await throttledSeconds();
    expect(throttled).toBeGreaterThan(1);

    await node.agent.putExportLimits(volumeId, { generation: 1, limits: {} });
    await secondsFor(REQUESTS);
    expect(await throttledSeconds()).toBe(throttled);
  });

  it('let requests go that wait when they are lifted', async () => {
    await node.agent.putExportLimits(volumeId, { generation: 1, limits: { iops: 1 } });
    const waiting = secondsFor(REQUESTS);
    await expect.poll(throttledSeconds, { timeout: 20_000 }).toBeGreaterThan(0);
    await node.agent.putExportLimits(volumeId, { generation: 1, limits: { iops: 100_000 } });
    expect(await waiting).toBeLessThan(REQUESTS / 2);
  });

  it('hold after a restart, too, for a guest that comes back', async () => {
    await node.agent.putExportLimits(volumeId, { generation: 1, limits: { iops: 20 } });
    await node.app.stop();
    await node.app.start();
    await disk.reconnect(socket, { patienceMs: 20_000 });
    expect(await node.agent.listExports()).toMatchObject([{ limits: { iops: 20, bytesPerSecond: 0 } }]);
    expect(await secondsFor(REQUESTS)).toBeGreaterThan((REQUESTS - 2) / 20 - 0.1);
  });

  it('are refused of an attachment that is over', async () => {
    const late = node.agent.putExportLimits(volumeId, { generation: 2, limits: {} });
    await expect(late).rejects.toMatchObject({ code: 'export-not-found' });
    disk.close();
    await node.agent.deleteExport(volumeId, { generation: 1, force: true });
    const over = node.agent.putExportLimits(volumeId, { generation: 1, limits: {} });
    await expect(over).rejects.toMatchObject({ code: 'stale-generation' });
  });
});
