import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LiveVolume } from './chain.js';
import type { OnStep } from './steps.js';
import { VolumeImage } from './volume-image.js';
import { VolumeStore } from './volume-store.js';

const KIB = 1024;
const MIB = 1024 * KIB;
const A = 'vol-aaaaaaaaaaaaaaaa';
const snap = (n: number) => `snap-${n.toString(16).padStart(16, '0')}`;

describe('coalescing', () => {
  let directory: string;
  let store: VolumeStore;
  let atStep: OnStep;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-coalesce-'));
    atStep = () => undefined;
    store = await VolumeStore.open({ directory, onStep: (step) => atStep(step) });
    await store.create({ volumeId: A, sizeBytes: MIB });
  });
  afterEach(async () => {
    await store.close();
    rmSync(directory, { recursive: true });
  });

  const withImage = async <T>(work: (image: VolumeImage) => Promise<T>): Promise<T> => {
    const open: { image?: VolumeImage } = {};
    const chain = await store.attach(A, {
      barrier: () => open.image!.barrier(),
      chainChanged: (changed) => open.image!.goOver(changed),
    });
    const image = await VolumeImage.open(chain);
    open.image = image;
    try {
      return await work(image);
    } finally {
      await image.close();
      await store.detach(A);
    }
  };
  const write = (offset: number, length: number, value: number): Promise<void> =>
    withImage((image) => image.writeAt(offset, new Uint8Array(length).fill(value)));
  const read = (offset: number, length: number): Promise<Uint8Array> =>
    withImage(async (image) => {
      const bytes = new Uint8Array(length);
      await image.readAt(offset, bytes);
      return bytes;
    });
  const snapshot = (n: number) => store.snapshots.take([{ snapshotId: snap(n), volumeId: A }]);

  it('does not bring back what a fold that was given up had copied', async () => {
    await write(0, 512 * KIB, 1);
    await snapshot(1);
    await store.grow(A, 2 * MIB);
    await write(1536 * KIB, 64 * KIB, 2);
    await store.snapshots.delete(snap(1));
    const giveUp = new AbortController();
    const given = await store.coalescer.run({ signal: giveUp.signal, onProgress: () => giveUp.abort() });
    expect(given.folded).toBe(0);
    // Nothing below the head has these blocks, so a hole is all that says that they are zeroes.
    await withImage((image) => image.discard(1536 * KIB, 64 * KIB));
    expect((await store.coalescer.run()).folded).toBe(1);
    expect(store.chain(A).layers).toHaveLength(1);
    expect((await read(1536 * KIB, 64 * KIB)).every((byte) => byte === 0)).toBe(true);
    expect((await read(0, 512 * KIB)).every((byte) => byte === 1)).toBe(true);
  });

  it('leaves the blocks where readers know them, while what a fold copied up is not the answer yet', async () => {
    await write(0, 64 * KIB, 1);
    await snapshot(1);
    await write(512 * KIB, 256 * KIB, 2);
    await snapshot(2);
    await withImage(async (image) => {
      const readsAsBefore = async (): Promise<boolean> => {
        const bytes = new Uint8Array(64 * KIB);
        await image.readAt(0, bytes);
        return bytes.every((byte) => byte === 1);
      };
      expect(await readsAsBefore()).toBe(true);
      await store.snapshots.delete(snap(1));
      const giveUp = new AbortController();
      const given = { signal: giveUp.signal, onProgress: () => giveUp.abort() };
      expect((await store.coalescer.run(given)).folded).toBe(0);
      const meanwhile: boolean[] = [];
      atStep = async (step) => {
        if (step === 'fold-up.flushed') meanwhile.push(await readsAsBefore());
      };
      expect((await store.coalescer.run()).folded).toBe(1);
      expect(meanwhile).toEqual([true]);
      expect(await readsAsBefore()).toBe(true);
    });
  });

  it('does not copy over what is written to a volume that is attached meanwhile', async () => {
    for (let at = 0; at < 256 * KIB; at += 16 * KIB) await write(at, 4 * KIB, 1);
    await snapshot(1);
    await write(512 * KIB, 512 * KIB, 2);
    await store.snapshots.delete(snap(1));
    let written: Promise<void> | undefined;
    const { folded } = await store.coalescer.run({
      bytesPerSecond: MIB,
      // The last of the blocks that are being copied up, one after the other.
      onProgress: () => {
        written ??= write(240 * KIB, 4 * KIB, 3);
      },
    });
    await written;
    expect([folded, written]).toEqual([0, expect.any(Promise)]);
    expect((await read(240 * KIB, 4 * KIB)).every((byte) => byte === 3)).toBe(true);
    await store.coalescer.run();
    expect((await read(240 * KIB, 4 * KIB)).every((byte) => byte === 3)).toBe(true);
  });

  it('makes holes under a volume that is written only after its requests have ended, twice', async () => {
    await write(0, MIB, 1);
    await snapshot(1);
    await write(0, 256 * KIB, 2);
    await store.snapshots.delete(snap(1));
    const [below] = store.chain(A).layers;
    const taken = () => statSync(below!.path).blocks * 512;
    const before = taken();
    const seen: number[] = [];
    const live: LiveVolume = {
      barrier: async () => void seen.push(taken()),
      chainChanged: async () => {},
    };
    await store.attach(A, live);
    const report = await store.coalescer.run();
    await store.detach(A);
    expect([report.prunedBytes, report.left]).toEqual([256 * KIB, 1]);
    expect(seen).toEqual([before, before]);
    expect(taken()).toBe(before - 256 * KIB);
  });
});
