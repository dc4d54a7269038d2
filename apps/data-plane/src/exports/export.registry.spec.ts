import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import { MIB, type VolumeId } from '@cairn/domain';
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

describe('volumes of the registry', () => {
  it('makes a volume once and refuses it in another size', async () => {
    expect(await node.registry.putVolume(volumeId, { sizeBytes: MIB })).toMatchObject({
      id: volumeId,
      sizeBytes: MIB,
    });
    expect(await codeOf(node.registry.putVolume(volumeId, { sizeBytes: 2 * MIB }))).toBe(
      'volume-size-mismatch',
    );
    expect(await node.registry.listVolumes()).toHaveLength(1);
  });

  it('deletes a volume for good: a create that comes late is refused, after a restart too', async () => {
    await node.registry.deleteVolume(volumeId);
    await node.registry.deleteVolume(volumeId);
    expect(await codeOf(node.registry.getVolume(volumeId))).toBe('volume-not-found');
    expect(await codeOf(node.registry.putVolume(volumeId, { sizeBytes: MIB }))).toBe('volume-deleted');
    await node.restart();
    expect(await codeOf(node.registry.putVolume(volumeId, { sizeBytes: MIB }))).toBe('volume-deleted');
    expect(await codeOf(node.registry.putExport(volumeId, request))).toBe('volume-deleted');
  });

  it('does not delete a volume that is exported', async () => {
    await node.registry.putExport(volumeId, request);
    expect(await codeOf(node.registry.deleteVolume(volumeId))).toBe('volume-exported');
    await node.registry.deleteExport(volumeId, { generation: 1, force: false });
    expect(await codeOf(node.registry.deleteVolume(volumeId))).toBe('done');
  });
});

describe('changes of volumes of the registry', () => {
  const snapshotId = 'snap-0123456789abcdef';

  it('grows a volume, tells a guest also when it is asked again, and never shrinks one', async () => {
    await node.registry.putExport(volumeId, request);
    for (let i = 0; i < 2; i += 1) {
      expect(await node.registry.putSize(volumeId, { sizeBytes: 2 * MIB })).toMatchObject({
        sizeBytes: 2 * MIB,
      });
    }
    expect(node.reactor.calls.slice(1)).toEqual([1, 2].map(() => `resize ${volumeId} ${2 * MIB}`));
    expect(await codeOf(node.registry.putSize(volumeId, { sizeBytes: MIB }))).toBe('volume-size-mismatch');
    await node.registry.deleteExport(volumeId, { generation: 1, force: false });
    await node.registry.putSize(volumeId, { sizeBytes: 3 * MIB });
    expect(node.reactor.calls.filter((call) => call.startsWith('resize'))).toHaveLength(2);
  });

  it('reverts a volume once for each generation, also over restarts', async () => {
    await node.registry.putRevert(volumeId, { snapshotId, generation: 1 });
    await node.restart();
    expect(await codeOf(node.registry.putRevert(volumeId, { snapshotId, generation: 1 }))).toBe('done');
    expect(node.pool.reverts).toEqual([`${volumeId} ${snapshotId}`]);
    expect(await codeOf(node.registry.putExport(volumeId, request))).toBe('stale-generation');
  });

  it('does not undo what was written after a revert when that comes late', async () => {
    await node.registry.putExport(volumeId, newer);
    expect(await codeOf(node.registry.putRevert(volumeId, { snapshotId, generation: 3 }))).toBe(
      'volume-exported',
    );
    await node.registry.deleteExport(volumeId, { generation: 2, force: false });
    expect(await codeOf(node.registry.putRevert(volumeId, { snapshotId, generation: 1 }))).toBe(
      'stale-generation',
    );
    expect(node.pool.reverts).toEqual([]);
    expect(await codeOf(node.registry.putRevert(volumeId, { snapshotId, generation: 3 }))).toBe('done');
  });
});

describe('exports of the registry', () => {
  it('exports once and gives the same answer again', async () => {
    const answer = await node.registry.putExport(volumeId, request);
    expect(answer).toMatchObject({
      state: 'listening',
      generation: 1,
      connection: {
        type: 'vhost-user-blk',
        serial: volumeId,
        socketPath: join(node.directory, `${volumeId}.sock`),
      },
    });
    expect(await node.registry.putExport(volumeId, request)).toEqual(answer);
    expect(node.reactor.listened).toEqual([`add ${volumeId}`]);
  });

  it('does not export a volume it does not have', async () => {
    expect(await codeOf(node.registry.putExport('vol-00000000000000ff', request))).toBe('volume-not-found');
  });

  it('refuses a generation older than the newest, and lets a newer one cut the older', async () => {
    await node.registry.putExport(volumeId, request);
    node.reactor.connected.add(volumeId);
    expect(await node.registry.putExport(volumeId, newer)).toMatchObject({
      generation: 2,
      attachmentId: newer.attachmentId,
    });
    expect(node.reactor.listened).toEqual([`add ${volumeId}`, `remove ${volumeId}`, `add ${volumeId}`]);
    expect(await codeOf(node.registry.putExport(volumeId, request))).toBe('stale-generation');
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe(
      'stale-generation',
    );
  });

  it('refuses one generation for two attachments', async () => {
    await node.registry.putExport(volumeId, request);
    expect(await codeOf(node.registry.putExport(volumeId, { ...newer, generation: 1 }))).toBe(
      'stale-generation',
    );
  });

  it('closes a generation with its export: a put that comes late is refused, after a restart too', async () => {
    await node.registry.putExport(volumeId, newer);
    await node.registry.deleteExport(volumeId, { generation: 2, force: false });
    await node.registry.deleteExport(volumeId, { generation: 2, force: false });
    expect(await codeOf(node.registry.putExport(volumeId, newer))).toBe('stale-generation');
    await node.restart();
    expect(await codeOf(node.registry.putExport(volumeId, request))).toBe('stale-generation');
    expect(await codeOf(node.registry.putExport(volumeId, newer))).toBe('stale-generation');
    expect(await codeOf(node.registry.putExport(volumeId, { ...newer, generation: 3 }))).toBe('done');
  });

  it('closes a generation that was never exported, so that its put cannot overtake the delete', async () => {
    await node.registry.deleteExport(volumeId, { generation: 1, force: true });
    expect(await codeOf(node.registry.putExport(volumeId, request))).toBe('stale-generation');
  });

  it('keeps an export that a front-end is connected to, unless forced', async () => {
    await node.registry.putExport(volumeId, request);
    node.reactor.connected.add(volumeId);
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 1, force: false }))).toBe(
      'export-busy',
    );
    expect(await node.registry.listExports()).toMatchObject([{ state: 'connected' }]);
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe('done');
    expect(await node.registry.listExports()).toEqual([]);
  });

  it('tells that the last flush has failed until the attachment is let go of by force', async () => {
    await node.registry.putExport(volumeId, request);
    node.reactor.lossNext = 'fdatasync failed with EIO';
    const remove = (force: boolean) => codeOf(node.registry.deleteExport(volumeId, { generation: 1, force }));
    expect(await remove(false)).toBe('export-failed');
    expect(await node.registry.listExports()).toMatchObject([
      { state: 'error', reason: 'fdatasync failed with EIO' },
    ]);
    expect(await remove(false)).toBe('export-failed');
    expect(node.pool.attached.has(volumeId)).toBe(false);
    expect(await remove(true)).toBe('done');
    expect(await node.registry.listExports()).toEqual([]);
    await node.registry.putExport(volumeId, newer);
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 2, force: false }))).toBe('done');
  });

  it('holds nothing against an attachment that the one before it has lost', async () => {
    await node.registry.putExport(volumeId, request);
    node.reactor.lossNext = 'fdatasync failed with EIO';
    expect(await node.registry.putExport(volumeId, newer)).toMatchObject({ state: 'listening' });
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 2, force: false }))).toBe('done');
  });

  it('reports an export that cannot listen, and listens when asked again', async () => {
    node.reactor.failNext = new Error('no descriptors left');
    expect(await codeOf(node.registry.putExport(volumeId, request))).toBe('export-failed');
    expect(await node.registry.listExports()).toMatchObject([
      { state: 'error', reason: 'no descriptors left' },
    ]);
    expect(await node.registry.putExport(volumeId, request)).toMatchObject({ state: 'listening' });
  });

  it('orders the verbs of one volume and runs those of different volumes at once', async () => {
    const other: VolumeId = 'vol-00000000000000ff';
    await node.registry.putVolume(other, { sizeBytes: MIB });
    let open: () => void = () => undefined;
    node.reactor.gate = new Promise((resolve) => (open = resolve));
    const put = node.registry.putExport(volumeId, request);
    const removal = node.registry.deleteExport(volumeId, { generation: 1, force: false });
    const again = codeOf(node.registry.putExport(volumeId, request));
    await node.registry.deleteVolume(other);
    expect(node.reactor.calls).not.toContain(`remove ${volumeId}`);
    open();
    await Promise.all([put, removal]);
    expect(await again).toBe('stale-generation');
    expect(node.reactor.listened).toEqual([`add ${volumeId}`, `remove ${volumeId}`]);
  });
});
