import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { VolumeImage } from './volume-image.js';
import { VolumeStore } from './volume-store.js';

// The system's answers that no file system gives on demand: an fsync or a write that fails.

const A = 'vol-aaaaaaaaaaaaaaaa';
const failing = vi.hoisted(() => ({ sync: undefined as RegExp | undefined }));

vi.mock('node:fs/promises', async (importOriginal) => {
  const real = await importOriginal<typeof import('node:fs/promises')>();
  const open = async (...args: Parameters<typeof real.open>): Promise<FileHandle> => {
    const file = await real.open(...args);
    const sync = file.sync.bind(file);
    file.sync = () =>
      failing.sync?.test(String(args[0]))
        ? Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO' }))
        : sync();
    return file;
  };
  return { ...real, open };
});

describe('a volume store whose disk fails', () => {
  let directory: string;
  let store: VolumeStore;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-faults-'));
    store = await VolumeStore.open({ directory });
  });
  afterEach(async () => {
    failing.sync = undefined;
    await store.close();
    rmSync(directory, { recursive: true });
  });

  it.each([
    ['the layer', /lay-[0-9a-f]+\.img$/],
    ['the directory of layers', /\/layers$/],
    ['the manifest', /\.json\.tmp-[0-9a-f]+$/],
    ['the directory of manifests', /\/volumes$/],
  ])('leaves nothing of a new volume when the fsync of %s fails', async (_, path) => {
    failing.sync = path;
    await expect(store.create({ volumeId: A, sizeBytes: 4096 })).rejects.toMatchObject({ kind: 'io' });
    expect(store.find(A)).toBeUndefined();
    expect(readdirSync(join(directory, 'layers'))).toEqual([]);
    expect(readdirSync(join(directory, 'volumes'))).toEqual([]);
    expect((await store.capacity()).provisionedBytes).toBe(0);
    failing.sync = undefined;
    await store.create({ volumeId: A, sizeBytes: 4096 });
    await store.close();
    store = await VolumeStore.open({ directory });
    expect(store.list().map(({ id }) => id)).toEqual([A]);
  });

  it('does not call a volume deleted before that is durable, and deletes it when asked again', async () => {
    await store.create({ volumeId: A, sizeBytes: 4096 });
    failing.sync = /\/volumes$/;
    await expect(store.delete(A)).rejects.toMatchObject({ kind: 'io' });
    expect(readdirSync(join(directory, 'layers'))).toHaveLength(2);
    failing.sync = undefined;
    await store.delete(A);
    expect(readdirSync(join(directory, 'layers'))).toEqual([]);
  });

  const snapshotId = 'snap-0000000000000001';
  const write = async (value: number): Promise<void> => {
    const image = await VolumeImage.open(store.chain(A));
    await image.writeAt(0, new Uint8Array(4096).fill(value));
    await image.close();
  };
  const read = async (): Promise<number> => {
    const bytes = new Uint8Array(4096);
    const image = await VolumeImage.open(store.chain(A), { readOnly: true });
    await image.readAt(0, bytes);
    await image.close();
    return bytes[4095]!;
  };

  it('keeps both heads when it is not known which one a volume has, and loses no write to either', async () => {
    await store.create({ volumeId: A, sizeBytes: 4096 });
    const chain = await store.attach(A, { barrier: async () => {}, chainChanged: async () => {} });
    const image = await VolumeImage.open(chain);
    failing.sync = /\/volumes$/;
    const taking = store.snapshots.take([{ snapshotId, volumeId: A }], { switchHeads: async () => {} });
    await expect(taking).rejects.toMatchObject({ kind: 'io' });
    failing.sync = undefined;
    await image.writeAt(0, new Uint8Array(4096).fill(7));
    await store.coalescer.run();
    await image.close();
    await store.close();
    store = await VolumeStore.open({ directory });
    expect(store.snapshots.list()).toEqual([]);
    expect(await read()).toBe(7);
    await store.coalescer.run();
    expect([await read(), store.chain(A).layers.length]).toEqual([7, 1]);
  });

  it('does not let a volume be used when a revert may have happened, until the pool is opened anew', async () => {
    await store.create({ volumeId: A, sizeBytes: 4096 });
    await write(1);
    await store.snapshots.take([{ snapshotId, volumeId: A }]);
    await write(2);
    failing.sync = /\/volumes$/;
    await expect(store.clones.revert(A, snapshotId)).rejects.toMatchObject({ kind: 'io' });
    failing.sync = undefined;
    expect(() => store.chain(A)).toThrow('opened anew');
    await store.coalescer.run();
    await store.close();
    store = await VolumeStore.open({ directory });
    // The rename had been done, and was only not known to be durable.
    expect(await read()).toBe(1);
  });
});
