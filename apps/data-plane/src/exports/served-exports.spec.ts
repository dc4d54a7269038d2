import { Logger } from '@nestjs/common';
import { NO_LIMITS } from '@cairn/block-export';
import { MIB } from '@cairn/domain';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { codeOf, newer, RegistryRig, request, volumeId } from './testing/registry-rig.js';

let node: RegistryRig;
beforeEach(async () => {
  Logger.overrideLogger(false);
  node = await RegistryRig.make();
});
afterEach(async () => {
  vi.restoreAllMocks();
  await node.remove();
});

describe('the chain of a volume that the registry serves', () => {
  it('is attached in the pool exactly while it is served', async () => {
    expect(node.pool.attached.has(volumeId)).toBe(false);
    await node.registry.putExport(volumeId, request);
    expect(node.pool.attached.has(volumeId)).toBe(true);
    await node.registry.putExport(volumeId, newer);
    expect(node.pool.attached.has(volumeId)).toBe(true);
    await node.registry.deleteExport(volumeId, { generation: 2, force: true });
    expect(node.pool.attached.has(volumeId)).toBe(false);
  });

  it('is not attached when it could not be served', async () => {
    node.reactor.failNext = new Error('no descriptors left');
    expect(await codeOf(node.registry.putExport(volumeId, request))).toBe('export-failed');
    expect(node.pool.attached.has(volumeId)).toBe(false);
  });

  it('stays attached while its rings do not stop', async () => {
    await node.registry.putExport(volumeId, request);
    vi.spyOn(node.reactor, 'removeExport').mockRejectedValueOnce(new Error('draining took too long'));
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe(
      'export-failed',
    );
    expect(node.pool.attached.has(volumeId)).toBe(true);
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe('done');
    expect(node.pool.attached.has(volumeId)).toBe(false);
  });

  it('is changed in the rings when the pool changes it', async () => {
    await node.registry.putExport(volumeId, request);
    const live = node.pool.attached.get(volumeId)!;
    await live.barrier();
    await live.chainChanged({ volumeId, sizeBytes: MIB, layers: [] });
    await node.registry.switchHeads([{ volumeId, chain: { volumeId, sizeBytes: MIB, layers: [] } }]);
    expect(node.reactor.calls.slice(1)).toEqual([
      `barrier ${volumeId}`,
      `change ${volumeId}`,
      `switch ${volumeId}`,
    ]);
  });
});

describe('limits of an export', () => {
  const slow = { ...NO_LIMITS, iops: 10 };

  it('hold at once, and over a restart', async () => {
    await node.registry.putExport(volumeId, request);
    const limited = await node.registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    expect(limited).toMatchObject({ state: 'listening', limits: slow });
    expect(node.reactor.limits.get(volumeId)).toEqual(slow);
    // The same export asked for again keeps them.
    expect(await node.registry.putExport(volumeId, request)).toEqual(limited);
    await node.restart();
    await node.registry.restore();
    expect(node.reactor.limits.get(volumeId)).toEqual(slow);
    expect(await node.registry.listExports()).toEqual([limited]);
  });

  it('take the place of all there were, and are gone when they limit nothing', async () => {
    await node.registry.putExport(volumeId, request);
    await node.registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    const burst = { bytesPerSecond: 4096, bytesBurst: 8192 };
    const answered = await node.registry.putExportLimits(volumeId, { generation: 1, limits: burst });
    expect(answered.limits).toEqual({ ...NO_LIMITS, ...burst, bytesBurstSeconds: 1 });
    const freed = await node.registry.putExportLimits(volumeId, { generation: 1, limits: {} });
    expect(freed).not.toHaveProperty('limits');
    expect(node.reactor.limits.get(volumeId)).toBeUndefined();
    await node.restart();
    await node.registry.restore();
    expect(node.reactor.limits.get(volumeId)).toBeUndefined();
  });

  it('end with the export', async () => {
    await node.registry.putExport(volumeId, request);
    await node.registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    expect(await node.registry.putExport(volumeId, newer)).not.toHaveProperty('limits');
    expect(node.reactor.limits.get(volumeId)).toBeUndefined();
  });

  it('are refused under a generation that is over, or is not exported', async () => {
    const limit = (generation: number) =>
      codeOf(node.registry.putExportLimits(volumeId, { generation, limits: { iops: 10 } }));
    expect(await limit(1)).toBe('export-not-found');
    await node.registry.putExport(volumeId, newer);
    expect(await limit(1)).toBe('stale-generation');
    expect(await limit(3)).toBe('export-not-found');
    await node.registry.deleteExport(volumeId, { generation: 2, force: false });
    expect(await limit(2)).toBe('stale-generation');
    expect(node.reactor.limits.get(volumeId)).toBeUndefined();
  });

  it('are refused when they make no sense, and those before stay', async () => {
    await node.registry.putExport(volumeId, request);
    await node.registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    for (const limits of [
      { iopsBurst: 5 },
      { iops: 9, iopsBurst: 9 },
      { iops: 2 ** 41 },
      { iopsUnitBytes: 1 },
    ])
      expect(await codeOf(node.registry.putExportLimits(volumeId, { generation: 1, limits }))).toBe(
        'invalid-argument',
      );
    expect(await node.registry.listExports()).toMatchObject([{ limits: slow }]);
  });
});
