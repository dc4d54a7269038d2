import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeBlockBackend } from './testing/block-backend.conformance.js';
import { FaultyBackend } from './testing/faulty.backend.js';
import { MemoryBackend } from './testing/memory.backend.js';
import { VolumeImage } from './volume-image.js';
import { VolumeStore } from './volume-store.js';

const MIB = 2 ** 20;
const A = 'vol-aaaaaaaaaaaaaaaa';
const snap = (n: number) => `snap-${n.toString(16).padStart(16, '0')}`;

describeBlockBackend('memory', async () => ({ backend: new MemoryBackend(MIB) }));
describeBlockBackend('a faulty back-end that is well', async () => ({
  backend: new FaultyBackend(new MemoryBackend(MIB)),
}));

for (const place of [tmpdir(), '/dev/shm'].filter((path) => existsSync(path))) {
  for (const depth of [1, 2, 9]) {
    describeBlockBackend(`a volume of ${depth} layers in ${place}`, async () => {
      const directory = mkdtempSync(join(place, 'cairn-image-'));
      const store = await VolumeStore.open({ directory });
      await store.create({ volumeId: A, sizeBytes: 2 * MIB });
      const initial = new Uint8Array(2 * MIB);
      for (let layer = 1; layer < depth; layer += 1) {
        const image = await VolumeImage.open(store.chain(A));
        for (let block = layer; block < 200; block += layer + 1) {
          const data = new Uint8Array(4096).fill(layer * 16 + (block % 16));
          await image.writeAt(block * 4096, data);
          initial.set(data, block * 4096);
        }
        await image.discard(layer * 40_960, 16_384);
        initial.fill(0, layer * 40_960, layer * 40_960 + 16_384);
        await image.close();
        await store.snapshots.take([{ snapshotId: snap(layer), volumeId: A }]);
      }
      const backend = await VolumeImage.open(store.chain(A), { mapBytes: 1024 });
      const dispose = async (): Promise<void> => {
        await store.close();
        rmSync(directory, { recursive: true });
      };
      return { backend, initial, dispose };
    });
  }
}

describe('a volume image', () => {
  let directory: string;
  let store: VolumeStore;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-image-'));
    store = await VolumeStore.open({ directory });
    await store.create({ volumeId: A, sizeBytes: 64 * MIB });
  });
  afterEach(async () => {
    await store.close();
    rmSync(directory, { recursive: true });
  });

  const read = async (image: VolumeImage, offset: number): Promise<number> => {
    const into = new Uint8Array(512);
    await image.readAt(offset, into);
    return into[0]!;
  };

  it('goes over to a new head while requests are under way, and the snapshot has each whole or not at all', async () => {
    const image = await VolumeImage.open(store.chain(A));
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 100; i += 1) writes.push(image.writeAt(i * 4096, new Uint8Array(4096).fill(1)));
    await store.attach(A, { barrier: () => image.barrier(), chainChanged: (chain) => image.goOver(chain) });
    const taken = store.snapshots.take([{ snapshotId: snap(1), volumeId: A }], {
      switchHeads: async ([only]) => image.goOver(only!.chain),
    });
    for (let i = 0; i < 100; i += 1) writes.push(image.writeAt(i * 4096, new Uint8Array(4096).fill(2)));
    await Promise.all([taken, ...writes]);
    await image.close();
    await store.detach(A);
    await store.clones.fromSnapshot({ volumeId: 'vol-bbbbbbbbbbbbbbbb', snapshotId: snap(1) });
    const [clone, source] = [
      await VolumeImage.open(store.chain('vol-bbbbbbbbbbbbbbbb')),
      await VolumeImage.open(store.chain(A)),
    ];
    for (let i = 0; i < 100; i += 1) {
      expect([1, 2]).toContain(await read(clone, i * 4096));
      expect(await read(source, i * 4096)).toBe(2);
    }
    await clone.close();
    await source.close();
  });

  it('gives space back when a guest discards what only the head has, and takes little where a parent has it', async () => {
    let image = await VolumeImage.open(store.chain(A));
    await image.writeAt(0, new Uint8Array(16 * MIB).fill(1));
    await image.close();
    await store.snapshots.take([{ snapshotId: snap(1), volumeId: A }]);
    image = await VolumeImage.open(store.chain(A));
    await image.writeAt(8 * MIB, new Uint8Array(16 * MIB).fill(2));
    await image.flush();
    expect(await store.allocatedBytes(A)).toBeGreaterThanOrEqual(16 * MIB);
    await image.discard(0, 64 * MIB);
    await image.flush();
    // 4096 blocks of the parent, a byte each.
    expect(await store.allocatedBytes(A)).toBeLessThanOrEqual(32 * 1024);
    expect(await read(image, 0)).toBe(0);
    expect(statSync(store.filePath(A)).size).toBeGreaterThan(64 * MIB);
    await image.close();
    image = await VolumeImage.open(store.chain(A));
    expect(await read(image, 12 * MIB)).toBe(0);
    await image.close();
  });

  it('refuses writes when it is read-only', async () => {
    const image = await VolumeImage.open(store.chain(A), { readOnly: true });
    await expect(image.writeAt(0, new Uint8Array(512))).rejects.toMatchObject({ kind: 'read-only' });
    await expect(image.discard(0, 512)).rejects.toMatchObject({ kind: 'read-only' });
    expect(await read(image, 0)).toBe(0);
    await image.close();
  });

  it('reads zeroes in what it has grown by', async () => {
    await store.snapshots.take([{ snapshotId: snap(1), volumeId: A }]);
    const image = await VolumeImage.open(store.chain(A));
    await image.discard(0, 4096);
    await store.grow(A, 128 * MIB);
    await image.grow(128 * MIB);
    expect(image.sizeBytes).toBe(128 * MIB);
    await image.writeAt(128 * MIB - 512, new Uint8Array(512).fill(3));
    expect(await read(image, 64 * MIB)).toBe(0);
    expect(await read(image, 128 * MIB - 512)).toBe(3);
    await image.close();
  });
});
