import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SNAPSHOT_BLOCK_BYTES } from './changed-blocks.js';
import { type Disk, systemDisk } from './disk.js';
import type { Step } from './steps.js';
import { VolumeImage } from './volume-image.js';
import { VolumeStore } from './volume-store.js';

const MIB = 2 ** 20;
const A = 'vol-aaaaaaaaaaaaaaaa';
const B = 'vol-bbbbbbbbbbbbbbbb';
const snap = (n: number) => `snap-${n.toString(16).padStart(16, '0')}`;
const blockOf = (value: number, length = SNAPSHOT_BLOCK_BYTES) => new Uint8Array(length).fill(value);
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('base64');

describe('SnapshotWriter', () => {
  let directory: string;
  let store: VolumeStore;
  let onStep: (step: Step) => Promise<void> | void;
  /** What was done to the files of layers. */
  let effects: string[];

  const watched: Disk = {
    ...systemDisk,
    async open(path, flags) {
      const file = await systemDisk.open(path, flags);
      const note = (what: string) => path.endsWith('.img') && effects.push(what);
      return {
        ...file,
        write: async (from, position) => (await file.write(from, position), void note('write')),
        sync: async () => (await file.sync(), void note('sync')),
      };
    },
  };
  const open = () => VolumeStore.open({ directory, disk: watched, onStep: (step) => onStep(step) });
  const put = (id: number, index: number, data = blockOf(index + 1)) =>
    store.snapshotWriter.putBlock(snap(id), index, data, sha256(data));
  const contentOf = async (id: number): Promise<Uint8Array> => {
    await store.clones.fromSnapshot({ volumeId: B, snapshotId: snap(id) });
    const chain = store.chain(B);
    const image = await VolumeImage.open(chain);
    const content = new Uint8Array(chain.sizeBytes);
    await image.readAt(0, content);
    await image.close();
    return content;
  };

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-writer-'));
    onStep = () => undefined;
    effects = [];
    store = await open();
  });
  afterEach(async () => {
    await store.close();
    rmSync(directory, { recursive: true });
  });

  it('has a block on the disk once its put resolves', async () => {
    await store.snapshotWriter.start({ snapshotId: snap(1), sizeBytes: MIB });
    effects = [];
    await put(1, 1);
    expect(effects).toEqual(['write', 'sync']);
  });

  it('keeps the last of two puts, takes many at once, and a last block that is shorter', async () => {
    const sizeBytes = 4 * MIB + 4096;
    await store.snapshotWriter.start({ snapshotId: snap(1), sizeBytes });
    await put(1, 3, blockOf(99));
    await Promise.all([0, 3, 5, 7].map((index) => put(1, index)));
    await put(1, 8, blockOf(9, 4096));
    await store.snapshotWriter.complete(snap(1), { changedBlocks: 5 });
    const expected = new Uint8Array(sizeBytes);
    for (const index of [0, 3, 5, 7, 8]) {
      expected.fill(index + 1, index * SNAPSHOT_BLOCK_BYTES, (index + 1) * SNAPSHOT_BLOCK_BYTES);
    }
    expect(Buffer.compare(await contentOf(1), expected)).toBe(0);
  });

  it.each([
    ['over the end', 2, SNAPSHOT_BLOCK_BYTES],
    ['too short', 0, 4096],
    ['too long', 1, SNAPSHOT_BLOCK_BYTES + 4096],
    ['at no index', -1, SNAPSHOT_BLOCK_BYTES],
  ])('refuses a block that is %s', async (_, index, length) => {
    await store.snapshotWriter.start({ snapshotId: snap(1), sizeBytes: MIB });
    await expect(put(1, index, blockOf(1, length))).rejects.toMatchObject({ kind: 'invalid-argument' });
  });

  it('counts what was put and nothing else, also when its parent is deleted meanwhile', async () => {
    await store.create({ volumeId: A, sizeBytes: 2 * MIB });
    const image = await VolumeImage.open(store.chain(A));
    await image.writeAt(0, blockOf(7, 2 * MIB));
    await image.close();
    await store.snapshots.take([{ snapshotId: snap(1), volumeId: A }]);
    await store.delete(A);
    await store.snapshotWriter.start({
      snapshotId: snap(2),
      sizeBytes: 4 * MIB,
      parentSnapshotId: snap(1),
    });
    await put(2, 1);
    await store.snapshots.delete(snap(1));
    await store.coalescer.run();
    const checksum = createHash('sha256')
      .update(sha256(blockOf(2)), 'base64')
      .digest('base64');
    await store.snapshotWriter.complete(snap(2), { changedBlocks: 1, checksum });
    await store.coalescer.run();
    expect(readdirSync(join(directory, 'layers'))).toHaveLength(2);
    const expected = new Uint8Array(4 * MIB).fill(7, 0, 2 * MIB);
    expected.fill(2, SNAPSHOT_BLOCK_BYTES, MIB);
    expect(Buffer.compare(await contentOf(2), expected)).toBe(0);
  });

  describe('while a snapshot is being completed', () => {
    let resume: () => void;
    let completion: Promise<unknown>;

    beforeEach(async () => {
      await store.snapshotWriter.start({ snapshotId: snap(1), sizeBytes: MIB });
      await put(1, 0);
      const held = new Promise<void>((resolve) => (resume = resolve));
      const reached = new Promise<void>((resolve) => {
        onStep = (step) => {
          if (step !== 'write-snapshot.flushed') return undefined;
          resolve();
          return held;
        };
      });
      completion = store.snapshotWriter.complete(snap(1), { changedBlocks: 1 });
      // Looked at below, or of no interest.
      completion.catch(() => undefined);
      await reached;
    });

    it('puts nothing into it, begins no second completion and does not let it expire', async () => {
      await expect(put(1, 1)).rejects.toMatchObject({ kind: 'snapshot-busy' });
      const second = store.snapshotWriter.complete(snap(1), { changedBlocks: 1 });
      await expect(second).rejects.toMatchObject({ kind: 'snapshot-busy' });
      expect(await store.snapshotWriter.removeExpired(Date.now() + 2 ** 40)).toEqual([]);
      resume();
      await expect(completion).resolves.toMatchObject({ state: 'completed' });
      await expect(put(1, 1)).rejects.toMatchObject({ kind: 'snapshot-not-found' });
    });

    it('can delete it, which ends the completion', async () => {
      await store.snapshots.delete(snap(1));
      resume();
      await expect(completion).rejects.toMatchObject({ kind: 'snapshot-not-found' });
      expect(readdirSync(join(directory, 'layers'))).toEqual([]);
    });
  });

  it('goes on with a snapshot whose completion was refused', async () => {
    const { snapshotWriter } = store;
    await snapshotWriter.start({ snapshotId: snap(1), sizeBytes: MIB });
    await put(1, 0);
    for (const expected of [{ changedBlocks: 2 }, { changedBlocks: 1, checksum: sha256(blockOf(1)) }]) {
      const refused = snapshotWriter.complete(snap(1), expected);
      await expect(refused).rejects.toMatchObject({ kind: 'checksum-mismatch' });
    }
    await put(1, 1);
    await snapshotWriter.complete(snap(1), { changedBlocks: 2 });
  });

  it('removes what nothing was put into for too long, by the limit that a restart does not forget', async () => {
    const request = { snapshotId: snap(1), sizeBytes: MIB };
    await store.snapshotWriter.start({ ...request, timeoutMs: 50_000 });
    await store.snapshotWriter.start({ ...request, timeoutMs: 100_000 });
    await put(1, 0);
    await store.close();
    store = await open();
    const { snapshotWriter } = store;
    // From the restart on.
    const restarted = Date.now();
    expect(await snapshotWriter.removeExpired(restarted + 90_000)).toEqual([]);
    await setTimeout(200);
    // Over, but for a put that has its turn before.
    const [, removed] = await Promise.all([put(1, 1), snapshotWriter.removeExpired(restarted + 100_100)]);
    expect(removed).toEqual([]);
    expect(await snapshotWriter.removeExpired(restarted + 200_000)).toEqual([snap(1)]);
    expect(readdirSync(join(directory, 'layers'))).toEqual([]);
    await expect(put(1, 1)).rejects.toMatchObject({ kind: 'snapshot-not-found' });
  });
});
