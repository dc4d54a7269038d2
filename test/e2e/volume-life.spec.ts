import { open, stat } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { GIB, MIB, serialOf } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { sql } from '../support/databases.js';
import { emptyNode, eventually, queueKinds, Stack } from '../support/stack.js';

const bytesAt = async (path: string, offsetBytes: number, lengthBytes: number): Promise<Buffer> => {
  const file = await open(path);
  try {
    const { buffer } = await file.read(Buffer.alloc(lengthBytes), 0, lengthBytes, offsetBytes);
    return buffer;
  } finally {
    await file.close();
  }
};

describe.each(queueKinds)('the life of a volume, queue in %s', (queue) => {
  let stack: Stack;
  const disks: FakeBlkDisk[] = [];
  const plug = async (socketPath: string, numQueues = 1): Promise<FakeBlkDisk> => {
    const disk = await FakeBlkDisk.open(socketPath, { numQueues });
    disks.push(disk);
    return disk;
  };

  beforeAll(async () => {
    stack = await Stack.start({ queue });
  });
  afterEach(({ task }) => {
    for (const disk of disks.splice(0)) disk.close();
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  it('goes from create over bytes at their offsets in a sparse file to nothing left', async () => {
    const volume = await stack.api.createVolume(GIB);
    expect(volume).toMatchObject({ state: 'available', sizeBytes: GIB });
    const file = await stack.fileOf(volume.id);

    const attachment = await stack.api.attach(volume.id, { numQueues: 2 });
    expect(attachment).toMatchObject({
      state: 'attached',
      connection: { serial: serialOf(volume.id), numQueues: 2 },
    });
    expect(await stack.api.volume(volume.id)).toMatchObject({ state: 'in-use' });
    const disk = await plug(attachment.connection.socketPath, 2);
    expect(disk.capacityBytes).toBe(GIB);
    expect(await disk.getId()).toBe(serialOf(volume.id));

    const offsets = [0, 4096, 512 * 3, 300 * MIB, GIB - 4096];
    const blocks = new Map(offsets.map((offset) => [offset, randomBytes(offset === 1536 ? 512 : 4096)]));
    for (const [offset, block] of blocks) await disk.write(offset, block);
    await disk.flush();
    // The 512-byte write went into the first block.
    blocks.set(
      0,
      Buffer.concat([blocks.get(0)!.subarray(0, 1536), blocks.get(1536)!, blocks.get(0)!.subarray(2048)]),
    );
    for (const [offset, block] of blocks) {
      expect(
        Buffer.from(await disk.read(offset, block.length, { queue: 1 })).equals(block),
        `read at ${offset}`,
      ).toBe(true);
      expect((await bytesAt(file, offset, block.length)).equals(block), `file at ${offset}`).toBe(true);
    }
    const { size, blocks: allocatedSectors } = await stat(file);
    expect(size).toBe(GIB);
    expect(allocatedSectors * 512).toBeLessThan(MIB);

    await disk.detach();
    await stack.api.detach(attachment);
    expect(await stack.api.attachment(attachment)).toMatchObject({ state: 'detached' });
    expect(existsSync(attachment.connection.socketPath)).toBe(false);

    // A second attachment finds the bytes of the first, and may only read them.
    const again = await stack.api.attach(volume.id, { readOnly: true });
    expect(again.generation).toBe(attachment.generation + 1);
    const reader = await plug(again.connection.socketPath);
    expect(Buffer.from(await reader.read(300 * MIB, 4096)).equals(blocks.get(300 * MIB)!)).toBe(true);
    await expect(reader.write(0, Buffer.alloc(512))).rejects.toThrow();
    await reader.detach();
    await stack.api.detach(again);

    await stack.api.deleteVolume(volume.id);
    expect(await stack.api.volume(volume.id)).toMatchObject({ state: 'deleted' });
    expect(await stack.nodeContents()).toEqual(emptyNode);
    expect(existsSync(file)).toBe(false);
  });

  it('waits as busy for a guest that is still connected, and ends when the guest lets go', async () => {
    const volume = await stack.api.createVolume(MIB);
    const attachment = await stack.api.attach(volume.id);
    const disk = await plug(attachment.connection.socketPath);
    const { operation } = await stack.api.startDetach(attachment);
    await eventually('busy', async () => (await stack.api.attachment(attachment)).state === 'busy');
    expect(await stack.api.attachment(attachment)).toMatchObject({ reason: { code: 'export-busy' } });
    await disk.write(0, randomBytes(4096));
    await disk.detach();
    await stack.api.succeeded(operation);
    expect(await stack.api.volume(volume.id)).toMatchObject({ state: 'available' });
    await stack.api.deleteVolume(volume.id);
  });

  it('cuts a connected guest when the detach is forced, while the polite one still waits', async () => {
    const volume = await stack.api.createVolume(MIB);
    const attachment = await stack.api.attach(volume.id);
    const disk = await plug(attachment.connection.socketPath);
    const { operation } = await stack.api.startDetach(attachment);
    await eventually('busy', async () => (await stack.api.attachment(attachment)).state === 'busy');
    await stack.api.detach(attachment, { force: true });
    await expect(disk.write(0, randomBytes(4096))).rejects.toThrow();
    expect((await stack.api.ended(operation)).state).toBe('succeeded');
    expect(await stack.api.volume(volume.id)).toMatchObject({ state: 'available' });
    await stack.api.deleteVolume(volume.id);
    expect(await stack.nodeContents()).toEqual(emptyNode);
  });

  it('leaves the volume attached when a detach gives up at its deadline, with the reason and the remedy', async () => {
    const volume = await stack.api.createVolume(MIB);
    const attachment = await stack.api.attach(volume.id);
    const disk = await plug(attachment.connection.socketPath);
    const { operation } = await stack.api.startDetach(attachment);
    await eventually('busy', async () => (await stack.api.attachment(attachment)).state === 'busy');
    await sql(stack.databaseUrl, 'UPDATE operations SET deadline = now(), sweep_at = now() WHERE id = $1', [
      operation.id,
    ]);
    const end = await stack.api.ended(operation);
    expect(end).toMatchObject({ state: 'failed', error: { code: 'export-busy' } });
    expect(end.error?.message).toContain('force=true');
    expect(await stack.api.attachment(attachment)).toMatchObject({
      state: 'attached',
      reason: { code: 'export-busy' },
    });
    await disk.write(0, randomBytes(4096));
    await disk.detach();
    await stack.api.detach(attachment);
    await stack.api.deleteVolume(volume.id);
  });

  it('ends an operation whose volume somebody took out of the database', async () => {
    await stack.worker.stop();
    const { operation, volume } = await stack.api.startCreate(MIB);
    await sql(stack.databaseUrl, 'DELETE FROM volumes WHERE id = $1', [volume.id]);
    await stack.worker.start();
    expect(await stack.api.ended(operation)).toMatchObject({
      state: 'failed',
      error: { code: 'volume-not-found' },
    });
  });

  it('fails a create for which no node is ready at its deadline, and deletes the volume in error', async () => {
    await stack.dataPlane.stop();
    await sql(stack.databaseUrl, `UPDATE nodes SET last_heartbeat_at = now() - interval '1 minute'`);
    await eventually('down', async () => (await stack.api.nodes()).every(({ state }) => state === 'down'));
    const { operation, volume } = await stack.api.startCreate(MIB);
    await eventually(
      'a first try',
      async () => (await stack.api.operation(operation.id)).error?.code === 'node-unavailable',
    );
    await sql(stack.databaseUrl, 'UPDATE operations SET deadline = now(), sweep_at = now() WHERE id = $1', [
      operation.id,
    ]);
    expect(await stack.api.ended(operation)).toMatchObject({
      state: 'failed',
      error: { code: 'node-unavailable' },
    });
    expect(await stack.api.volume(volume.id)).toMatchObject({
      state: 'error',
      reason: { code: 'node-unavailable' },
    });
    await stack.api.deleteVolume(volume.id);

    await stack.dataPlane.start();
    await stack.nodeReady();
    await stack.api.deleteVolume((await stack.api.createVolume(MIB)).id);
    expect(await stack.nodeContents()).toEqual(emptyNode);
  });
});
