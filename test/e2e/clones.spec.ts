import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { MIB } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { VolumeView } from '../support/rest-client.js';
import { emptyNode, eventually, Stack } from '../support/stack.js';

describe('clones, reverts and resizes', () => {
  let stack: Stack;
  const disks: FakeBlkDisk[] = [];
  beforeAll(async () => {
    stack = await Stack.start({ queue: 'postgres' });
  });
  afterEach(({ task }) => {
    for (const disk of disks.splice(0)) disk.close();
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  /** Attaches a volume for as long as a guest uses it. */
  const asGuest = async <Value>(id: string, use: (disk: FakeBlkDisk) => Promise<Value>): Promise<Value> => {
    const attachment = await stack.api.attach(id);
    const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
    const value = await use(disk);
    await disk.flush();
    await disk.detach();
    await stack.api.detach(attachment);
    return value;
  };
  const write = (id: string, block: Buffer) => asGuest(id, (disk) => disk.write(0, block));
  const read = (id: string) => asGuest(id, async (disk) => Buffer.from(await disk.read(0, 4096)));
  /** What the head layer alone has at the beginning: zeroes where it reads what is below. */
  const headOf = async (id: string): Promise<Buffer> => {
    const file = await open(await stack.fileOf(id));
    try {
      return (await file.read(Buffer.alloc(4096), 0, 4096, 0)).buffer;
    } finally {
      await file.close();
    }
  };
  const start = async (path: string, body: object): Promise<VolumeView> => {
    const answer = await stack.api.send<{ operation: { id: string }; volume: VolumeView }>(
      'POST',
      path,
      body,
    );
    expect(answer.status).toBe(202);
    await stack.api.succeeded(answer.body.operation);
    return stack.api.volume(answer.body.volume.id);
  };
  const empty = () =>
    eventually('an empty node', async () => {
      expect(await stack.nodeContents()).toEqual(emptyNode);
      return true;
    });

  it('make a volume of a snapshot and of a volume, that have its bytes and outlive it', async () => {
    const { api } = stack;
    const block = randomBytes(4096);
    const { id } = await api.createVolume(MIB);
    await write(id, block);
    const snapshot = await api.takeSnapshot(id);
    const restored = await start('/v1/volumes', { snapshotId: snapshot.id, sizeBytes: 2 * MIB });
    expect(restored).toMatchObject({ state: 'available', sizeBytes: 2 * MIB, snapshotId: snapshot.id });
    const clone = await start('/v1/volumes', { sourceVolumeId: id });
    expect(clone).toMatchObject({ state: 'available', sizeBytes: MIB, sourceVolumeId: id });
    expect((await headOf(clone.id)).equals(Buffer.alloc(4096))).toBe(true);

    // With everything else gone, what is left has the bytes by itself, once they were folded into it.
    await api.deleteVolume(id);
    await api.deleteSnapshot(snapshot.id);
    await api.deleteVolume(restored.id);
    await eventually('the bytes in the head', async () => (await headOf(clone.id)).equals(block));
    await api.deleteVolume(clone.id);
    await empty();
  });

  it('are of a volume that its guest writes to, and part from it', async () => {
    const { api } = stack;
    const [first, second, third] = [randomBytes(4096), randomBytes(4096), randomBytes(4096)];
    const source = await api.createVolume(MIB);
    const other = await api.createVolume(MIB);
    const attachment = await api.attach(source.id);
    const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
    disks.push(disk);
    await disk.write(0, first);
    const { operation, snapshots } = await api.startGroup([source.id, other.id]);
    await api.succeeded(operation);
    await disk.write(0, second);
    const clone = await start('/v1/volumes', { sourceVolumeId: source.id });
    await disk.write(0, third);
    const restored = await start('/v1/volumes', { snapshotId: snapshots[0]!.id });
    expect((await read(restored.id)).equals(first)).toBe(true);
    expect((await read(clone.id)).equals(second)).toBe(true);
    expect(Buffer.from(await disk.read(0, 4096)).equals(third)).toBe(true);
    await write(clone.id, first);
    expect(Buffer.from(await disk.read(0, 4096)).equals(third)).toBe(true);

    // In the wrong order, while the guest goes on.
    for (const { id } of snapshots) await api.deleteSnapshot(id);
    await api.deleteVolume(restored.id);
    await api.deleteVolume(other.id);
    expect(Buffer.from(await disk.read(0, 4096)).equals(third)).toBe(true);
    expect((await read(clone.id)).equals(first)).toBe(true);
    await disk.detach();
    await api.detach(attachment);
    await api.deleteVolume(source.id);
    await api.deleteVolume(clone.id);
    await empty();
  });

  it('take a volume back to its snapshot', async () => {
    const { api } = stack;
    const [before, after] = [randomBytes(4096), randomBytes(4096)];
    const { id } = await api.createVolume(MIB);
    await write(id, before);
    const snapshot = await api.takeSnapshot(id);
    await write(id, after);
    const reverted = await start(`/v1/volumes/${id}/revert`, { snapshotId: snapshot.id });
    expect(reverted).toMatchObject({ modification: { kind: 'revert', state: 'completed' } });
    expect((await read(id)).equals(before)).toBe(true);
    await api.deleteSnapshot(snapshot.id);
    await eventually('the bytes in the head', async () => (await headOf(id)).equals(before));
    await api.deleteVolume(id);
    await empty();
  });

  it('grow a volume under its guest, who sees it at once, and one that nobody uses', async () => {
    const { api } = stack;
    const { id } = await api.createVolume(MIB);
    const attachment = await api.attach(id);
    const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
    disks.push(disk);
    expect(await start(`/v1/volumes/${id}/resize`, { sizeBytes: 2 * MIB })).toMatchObject({
      state: 'in-use',
      sizeBytes: 2 * MIB,
      modification: { kind: 'resize', state: 'completed' },
    });
    await eventually('the new size', async () => (await disk.readConfig()).capacitySectors * 512 === 2 * MIB);
    const block = randomBytes(4096);
    await disk.write(2 * MIB - 4096, block);
    expect(Buffer.from(await disk.read(2 * MIB - 4096, 4096)).equals(block)).toBe(true);
    await disk.detach();
    await api.detach(attachment);
    expect(await start(`/v1/volumes/${id}/resize`, { sizeBytes: 4 * MIB })).toMatchObject({
      sizeBytes: 4 * MIB,
    });
    await api.deleteVolume(id);
    await empty();
  });
});
