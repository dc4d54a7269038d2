import { createHash, randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newId, MIB } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { emptyNode, eventually, Stack } from '../support/stack.js';

describe('snapshots', () => {
  let stack: Stack;
  beforeAll(async () => {
    const env = { CAIRN_USAGE_MS: '100', CAIRN_INVENTORY_MS: '100' };
    stack = await Stack.start({ queue: 'postgres', env });
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  it('are taken alone and together, outlive their volume, and leave nothing behind in any order', async () => {
    const { api } = stack;
    const [first, second] = [await api.createVolume(MIB), await api.createVolume(2 * MIB)];
    const alone = await api.takeSnapshot(first.id);
    expect(alone).toMatchObject({ state: 'completed', volumeId: first.id, sizeBytes: MIB });
    const { operation, snapshots } = await api.startGroup([first.id, second.id]);
    await api.succeeded(operation);
    const together = await Promise.all(snapshots.map(({ id }) => api.snapshot(id)));
    expect(together).toMatchObject([
      { state: 'completed', volumeId: first.id, sizeBytes: MIB },
      { state: 'completed', volumeId: second.id, sizeBytes: 2 * MIB },
    ]);
    expect(new Set(together.map(({ groupId }) => groupId)).size).toBe(1);
    expect((await stack.nodeContents()).snapshots).toEqual(
      [alone, ...together].map(({ id }) => id).toSorted(),
    );

    // The middle of a line first, then volumes, then the ends.
    await api.deleteSnapshot(together[0]!.id);
    await api.deleteVolume(first.id);
    await api.deleteSnapshot(alone.id);
    await api.deleteSnapshot(together[1]!.id);
    await api.deleteVolume(second.id);
    await eventually('an empty node', async () => {
      expect(await stack.nodeContents()).toEqual(emptyNode);
      return true;
    });
  });

  it('fold layers that nobody needs in the background, so that a chain does not grow', async () => {
    const { api } = stack;
    const { id } = await api.createVolume(MIB);
    for (let i = 0; i < 4; i += 1) await api.deleteSnapshot((await api.takeSnapshot(id)).id);
    await eventually('one layer', async () => {
      // The volume's manifest, and the manifest and the file of its only layer.
      expect((await stack.nodeContents()).files).toHaveLength(3);
      return true;
    });
    await api.deleteVolume(id);
    expect(await stack.nodeContents()).toEqual(emptyNode);
  });

  it('tell what is theirs alone and what they share, once it was measured', async () => {
    const { api } = stack;
    const { id } = await api.createVolume(MIB);
    const attachment = await api.attach(id);
    const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
    await disk.write(0, randomBytes(8192));
    const snapshot = await api.takeSnapshot(id);
    await disk.write(0, randomBytes(4096));
    await disk.flush();
    await eventually('the usage', async () => {
      const shown = { usage: { uniqueBytes: 4096, sharedBytes: 4096, measuredAt: expect.any(String) } };
      expect(await api.volume(id)).toMatchObject(shown);
      expect(await api.snapshot(snapshot.id)).toMatchObject(shown);
      return true;
    });
    await disk.detach();
    await api.detach(attachment);
    await api.deleteSnapshot(snapshot.id);
    await api.deleteVolume(id);
  });

  it('tell their blocks, what changed since, and the bytes, only by a ticket', async () => {
    const { api } = stack;
    const { id } = await api.createVolume(2 * MIB);
    const attachment = await api.attach(id);
    const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
    const block = randomBytes(4096);
    await disk.write(0, randomBytes(4096));
    const first = await api.takeSnapshot(id);
    await disk.write(MIB, block);
    const second = await api.takeSnapshot(id);
    await disk.detach();
    await api.detach(attachment);
    const blocksOf = async (path: string) =>
      (await api.send<{ blocks: { index: number; token: string }[]; nextStart?: number }>('GET', path)).body;

    const path = `/v1/snapshots/${second.id}`;
    const all = await blocksOf(`${path}/blocks`);
    expect(all.blocks.map(({ index }) => index)).toEqual([0, 2]);
    const page = await blocksOf(`${path}/blocks?limit=1`);
    expect(page).toMatchObject({ blocks: [{ index: 0 }], nextStart: 2 });
    expect((await blocksOf(`${path}/blocks?start=2`)).blocks).toEqual(all.blocks.slice(1));
    expect((await blocksOf(`${path}/blocks?since=${first.id}`)).blocks).toEqual(all.blocks.slice(1));
    expect((await api.send('GET', `${path}/extents?since=${first.id}`)).body).toEqual({
      sizeBytes: 2 * MIB,
      extents: [{ offsetBytes: MIB, lengthBytes: 4096, zeroes: false }],
    });
    expect((await blocksOf(`${path}/blocks?start=${2 ** 31}`)).blocks).toEqual([]);
    expect((await api.send('GET', `${path}/blocks?start=${2 ** 40}`)).status).toBe(400);
    expect((await api.send('GET', `${path}/extents?limit=0`)).status).toBe(400);
    // Backwards they are no line.
    const backwards = await api.send('GET', `/v1/snapshots/${first.id}/blocks?since=${second.id}`);
    expect(backwards).toMatchObject({ status: 400, body: { code: 'invalid-argument' } });

    const { Location } = await api.redirected(`${path}/blocks/2?token=${all.blocks[1]!.token}`);
    const answer = await fetch(Location);
    const bytes = Buffer.from(await answer.arrayBuffer());
    expect(bytes.length).toBe(512 * 1024);
    expect(bytes.subarray(0, 4096).equals(block)).toBe(true);
    expect(answer.headers.get('x-cairn-sha256')).toBe(createHash('sha256').update(bytes).digest('base64'));
    for (const wrong of [
      Location.replace(second.id, first.id),
      Location.replace(/\.(\d{13})\./, '.9999999999999.'),
    ]) {
      expect(wrong).not.toBe(Location);
      expect((await fetch(wrong)).status).toBe(401);
    }
    expect((await fetch(Location.replace(/token=./, 'token=x'))).status).toBe(400);
    for (const each of [first, second]) await api.deleteSnapshot(each.id);
    expect((await api.send('GET', `${path}/blocks`)).status).toBe(409);
    await api.deleteVolume(id);
  });

  it('that their node has lost are in error, and those that it does not understand are not', async () => {
    const { api, dataPlane, poolDirectory } = stack;
    const { id } = await api.createVolume(MIB);
    const snapshot = await api.takeSnapshot(id);
    const manifest = join(poolDirectory, 'snapshots', `${snapshot.id}.json`);
    await dataPlane.stop();
    // Not understood is not lost.
    await writeFile(manifest, '{');
    await dataPlane.start();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(await api.snapshot(snapshot.id)).toMatchObject({ state: 'completed' });
    await dataPlane.stop();
    await rm(manifest);
    await dataPlane.start();
    await eventually('lost', async () => (await api.snapshot(snapshot.id)).state === 'error');
    expect(await api.snapshot(snapshot.id)).toMatchObject({ reason: { code: 'snapshot-lost' } });
    await api.deleteSnapshot(snapshot.id);
    await api.deleteVolume(id);
  });

  it('end in error with the reason when their volume is not on the node', async () => {
    const { api } = stack;
    const { id } = await api.createVolume(MIB);
    // Behind the back of the control plane.
    await stack.agent.deleteVolume(id as `vol-${string}`);
    const { operation, snapshot } = await api.startSnapshot(id);
    expect(await api.ended(operation)).toMatchObject({ state: 'failed', error: { code: 'agent-refused' } });
    expect(await api.snapshot(snapshot.id)).toMatchObject({
      state: 'error',
      reason: { code: 'agent-refused' },
    });
    await api.deleteSnapshot(snapshot.id);
    await api.deleteVolume(id);
    expect(await stack.nodeContents()).toEqual(emptyNode);
  });

  it('are refused by the agent for what it cannot take at once', async () => {
    const volumeId = newId('vol');
    const snapshots = [1, 2].map(() => ({ snapshotId: newId('snap'), volumeId }));
    await expect(stack.agent.takeSnapshots({ snapshots })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
  });
});
