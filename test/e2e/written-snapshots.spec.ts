import { createHash, randomBytes } from 'node:crypto';
import { MIB } from '@cairn/domain';
import { checkPool, SNAPSHOT_BLOCK_BYTES } from '@cairn/storage';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { emptyNode, eventually, Stack } from '../support/stack.js';

const checksumOf = (...blocks: Uint8Array[]): string => {
  const all = createHash('sha256');
  for (const block of blocks) all.update(createHash('sha256').update(block).digest());
  return all.digest('base64');
};

describe('snapshots that are written from blocks', () => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await Stack.start({ queue: 'postgres', env: { CAIRN_INVENTORY_MS: '100' } });
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  const indicesOf = async (path: string): Promise<number[]> => {
    const answer = await stack.api.send<{ blocks: { index: number }[] }>('GET', path);
    return answer.body.blocks.map(({ index }) => index);
  };
  const completed = async (id: string, ...blocks: Uint8Array[]): Promise<void> => {
    const request = { changedBlocks: blocks.length, checksum: checksumOf(...blocks) };
    await stack.api.succeeded((await stack.api.startComplete(id, request)).operation);
    expect(await stack.api.snapshot(id)).toMatchObject({ state: 'completed', progress: 100 });
  };
  const contentOf = async (snapshotId: string): Promise<Buffer> => {
    const { api } = stack;
    const { operation, volume } = await api.startClone({ snapshotId });
    await api.succeeded(operation);
    const attachment = await api.attach(volume.id);
    const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
    const content: Uint8Array[] = [];
    for (let at = 0; at < volume.sizeBytes; at += MIB / 4)
      content.push(await disk.read(at, Math.min(MIB / 4, volume.sizeBytes - at)));
    // It is a volume like any other.
    await disk.write(0, randomBytes(4096));
    await disk.detach();
    await api.detach(attachment);
    await api.deleteVolume(volume.id);
    return Buffer.concat(content);
  };
  const nothingIsLeft = () =>
    eventually('an empty node', async () => {
      expect(await stack.nodeContents()).toEqual(emptyNode);
      return true;
    });

  it('have exactly the bytes that were put, and those of their parent', async () => {
    const { api } = stack;
    const sizeBytes = 2 * MIB + 4096;
    const first = await api.startWriting({ sizeBytes });
    expect(first).toMatchObject({ state: 'pending', writing: 'open', progress: 0 });
    const blocks = [0, 1, 3].map(() => randomBytes(SNAPSHOT_BLOCK_BYTES));
    const last = randomBytes(4096);
    expect(await api.putBlock(first.id, 3, randomBytes(SNAPSHOT_BLOCK_BYTES), 10)).toBe(201);
    await eventually('its progress', async () => (await api.snapshot(first.id)).progress === 10);
    const statuses = await Promise.all([
      ...[0, 1, 3].map((index, i) => api.putBlock(first.id, index, blocks[i]!)),
      api.putBlock(first.id, 4, last),
    ]);
    expect(statuses).toEqual([201, 201, 201, 201]);
    expect(await api.putBlock(first.id, 5, last)).toBe(400);
    for (const request of [
      { changedBlocks: 5 },
      { changedBlocks: 4, checksum: checksumOf(...blocks) },
      { changedBlocks: 4, checksum: checksumOf(blocks[1]!, blocks[0]!, blocks[2]!, last) },
    ]) {
      const end = await api.ended((await api.startComplete(first.id, request)).operation);
      expect(end).toMatchObject({ state: 'failed', error: { code: 'checksum-mismatch', retryable: false } });
      expect(await api.snapshot(first.id)).toMatchObject({ state: 'pending', writing: 'open' });
    }
    await completed(first.id, ...blocks, last);
    expect((await api.send('GET', `/v1/snapshots/${first.id}/upload`)).status).toBe(409);
    expect(await indicesOf(`/v1/snapshots/${first.id}/blocks`)).toEqual([0, 1, 3, 4]);
    const expected = Buffer.concat([blocks[0]!, blocks[1]!, Buffer.alloc(MIB / 2), blocks[2]!, last]);
    expect((await contentOf(first.id)).equals(expected)).toBe(true);

    const second = await api.startWriting({ sizeBytes, parentSnapshotId: first.id });
    const changed = randomBytes(SNAPSHOT_BLOCK_BYTES);
    expect(await api.putBlock(second.id, 2, changed)).toBe(201);
    await completed(second.id, changed);
    expect(await indicesOf(`/v1/snapshots/${second.id}/blocks?since=${first.id}`)).toEqual([2]);
    await api.deleteSnapshot(first.id);
    changed.copy(expected, MIB);
    expect((await contentOf(second.id)).equals(expected)).toBe(true);

    await stack.dataPlane.stop();
    expect((await checkPool(stack.poolDirectory)).findings).toEqual([]);
    await stack.dataPlane.start();
    await api.deleteSnapshot(second.id);
    await nothingIsLeft();
  });

  it('keep what was put over a kill of every process', async () => {
    const { api } = stack;
    const { id } = await api.startWriting({ sizeBytes: MIB });
    const [before, after] = [randomBytes(SNAPSHOT_BLOCK_BYTES), randomBytes(SNAPSHOT_BLOCK_BYTES)];
    await api.putBlock(id, 0, randomBytes(SNAPSHOT_BLOCK_BYTES));
    expect(await api.putBlock(id, 0, before)).toBe(201);
    const apps = [stack.dataPlane, stack.controlPlane, stack.worker];
    await Promise.all(apps.map((app) => app.kill()));
    await Promise.all(apps.map((app) => app.start()));
    await stack.nodeReady();
    expect(await api.snapshot(id)).toMatchObject({ state: 'pending', writing: 'open' });
    expect(await api.putBlock(id, 1, after)).toBe(201);
    // Killed once more while it is completed.
    const { operation } = await api.startComplete(id, {
      changedBlocks: 2,
      checksum: checksumOf(before, after),
    });
    await stack.dataPlane.kill();
    await stack.dataPlane.start();
    await api.succeeded(operation);
    expect((await contentOf(id)).equals(Buffer.concat([before, after]))).toBe(true);
    await api.deleteSnapshot(id);
    await nothingIsLeft();
  });

  it('are in error, and their space is back, when nothing was put for too long', async () => {
    const { api } = stack;
    const { id } = await api.startWriting({ sizeBytes: MIB });
    expect(await api.putBlock(id, 0, randomBytes(SNAPSHOT_BLOCK_BYTES))).toBe(201);
    // What a caller may ask for is ten minutes and more.
    await stack.agent.startWriting(id as `snap-${string}`, { sizeBytes: MIB, timeoutMs: 500 });
    await eventually('its end', async () => (await api.snapshot(id)).state === 'error');
    expect(await api.snapshot(id)).toMatchObject({ reason: { code: 'snapshot-expired' } });
    await nothingIsLeft();
    expect((await api.send('GET', `/v1/snapshots/${id}/upload`)).status).toBe(409);
    await api.deleteSnapshot(id);
  });

  it('are cancelled when they are deleted', async () => {
    const { api } = stack;
    const { id } = await api.startWriting({ sizeBytes: MIB });
    expect(await api.putBlock(id, 0, randomBytes(SNAPSHOT_BLOCK_BYTES))).toBe(201);
    await api.deleteSnapshot(id);
    expect(await api.snapshot(id)).toMatchObject({ state: 'deleted' });
    expect(await stack.nodeContents()).toEqual(emptyNode);
  });
});
