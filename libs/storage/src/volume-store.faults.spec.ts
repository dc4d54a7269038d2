import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
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
});
