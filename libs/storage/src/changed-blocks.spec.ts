import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SNAPSHOT_BLOCK_BYTES } from './changed-blocks.js';
import { VolumeImage } from './volume-image.js';
import { VolumeStore } from './volume-store.js';

const MIB = 2 ** 20;
const BLOCK = 4096;
const A = 'vol-aaaaaaaaaaaaaaaa';
const B = 'vol-bbbbbbbbbbbbbbbb';
const snap = (n: number) => `snap-${n.toString(16).padStart(16, '0')}`;
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('base64');

describe('what changed between snapshots', () => {
  let directory: string;
  let store: VolumeStore;

  const change = async (id: string, work: (image: VolumeImage) => Promise<void>): Promise<void> => {
    const image = await VolumeImage.open(store.chain(id));
    await work(image);
    await image.close();
  };
  const extents = async (id: number, since?: number) =>
    (await store.changedBlocks.extents(snap(id), since === undefined ? {} : { sinceSnapshotId: snap(since) }))
      .extents;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-changed-'));
    store = await VolumeStore.open({ directory });
    await store.create({ volumeId: A, sizeBytes: 8 * MIB });
    await change(A, (image) => image.writeAt(MIB, new Uint8Array(4 * BLOCK).fill(1)));
    await store.snapshots.take([{ snapshotId: snap(1), volumeId: A }]);
    await change(A, async (image) => {
      await image.writeAt(5 * MIB + 512, new Uint8Array(512).fill(2));
      await image.discard(MIB, BLOCK);
    });
    await store.snapshots.take([{ snapshotId: snap(2), volumeId: A }]);
    await change(A, (image) => image.writeAt(0, new Uint8Array(BLOCK).fill(3)));
    await store.snapshots.take([{ snapshotId: snap(3), volumeId: A }]);
  });
  afterEach(async () => {
    await store.close();
    rmSync(directory, { recursive: true });
  });

  it('lists what has data in a snapshot, without what was discarded', async () => {
    expect(await extents(1)).toEqual([{ offsetBytes: MIB, lengthBytes: 4 * BLOCK, zeroes: false }]);
    expect(await extents(3)).toEqual([
      { offsetBytes: 0, lengthBytes: BLOCK, zeroes: false },
      { offsetBytes: MIB + BLOCK, lengthBytes: 3 * BLOCK, zeroes: false },
      { offsetBytes: 5 * MIB, lengthBytes: BLOCK, zeroes: false },
    ]);
  });

  it('lists what was written and discarded since another, also when one between is deleted and folded', async () => {
    const both = [
      { offsetBytes: 0, lengthBytes: BLOCK, zeroes: false },
      { offsetBytes: MIB, lengthBytes: BLOCK, zeroes: true },
      { offsetBytes: 5 * MIB, lengthBytes: BLOCK, zeroes: false },
    ];
    expect(await extents(2, 1)).toEqual(both.slice(1));
    expect(await extents(3, 1)).toEqual(both);
    expect(await extents(3, 3)).toEqual([]);
    await store.snapshots.delete(snap(2));
    await store.coalescer.run();
    expect(await extents(3, 1)).toEqual(both);
  });

  it('pages through extents', async () => {
    const seen: number[] = [];
    for (let startBytes: number | undefined = 0; startBytes !== undefined;) {
      const page = await store.changedBlocks.extents(snap(3), { startBytes, maxExtents: 1 });
      seen.push(...page.extents.map(({ offsetBytes }) => offsetBytes));
      startBytes = page.nextOffsetBytes;
    }
    expect(seen).toEqual([0, MIB + BLOCK, 5 * MIB]);
  });

  it('refuses to compare what is not of one line', async () => {
    await store.create({ volumeId: B, sizeBytes: MIB });
    await store.snapshots.take([{ snapshotId: snap(9), volumeId: B }]);
    await expect(extents(3, 9)).rejects.toMatchObject({ kind: 'snapshots-unrelated' });
    await expect(extents(1, 3)).rejects.toMatchObject({ kind: 'snapshots-unrelated' });
    await expect(extents(7)).rejects.toMatchObject({ kind: 'snapshot-not-found' });
  });

  it('reads a block against its token only, with its checksum', async () => {
    const { blocks } = await store.changedBlocks.blocks(snap(3));
    expect(blocks.map(({ index }) => index)).toEqual([0, 2, 10]);
    const { data, checksum } = await store.changedBlocks.readBlock(snap(3), blocks[2]!);
    expect([data[0], data[512], data[1024]]).toEqual([0, 2, 0]);
    expect(checksum).toBe(sha256(data));
    const forged = { index: 1, token: blocks[0]!.token };
    await expect(store.changedBlocks.readBlock(snap(3), forged)).rejects.toMatchObject({
      kind: 'invalid-argument',
    });
    const page = await store.changedBlocks.blocks(snap(3), { maxBlocks: 2 });
    expect(page.nextIndex).toBe(10);
  });

  it('carries a snapshot into another pool block by block', async () => {
    const other = mkdtempSync(join(tmpdir(), 'cairn-other-'));
    let target = await VolumeStore.open({ directory: other });
    try {
      const { snapshotWriter: writer } = target;
      const request = { snapshotId: snap(3), sizeBytes: 8 * MIB, timeoutMs: 1000 };
      await writer.start(request);
      await writer.start(request);
      const digests = createHash('sha256');
      const { blocks } = await store.changedBlocks.blocks(snap(3));
      for (const block of blocks) {
        const { data, checksum } = await store.changedBlocks.readBlock(snap(3), block);
        digests.update(Buffer.from(checksum, 'base64'));
        await writer.putBlock(snap(3), block.index, data, checksum);
      }
      const wrong = writer.putBlock(
        snap(3),
        1,
        new Uint8Array(SNAPSHOT_BLOCK_BYTES),
        sha256(new Uint8Array(1)),
      );
      await expect(wrong).rejects.toMatchObject({ kind: 'checksum-mismatch' });
      await expect(writer.complete(snap(3), { changedBlocks: 2 })).rejects.toMatchObject({
        kind: 'checksum-mismatch',
      });
      expect(() => target.snapshots.chain(snap(3))).toThrow('snap-0000000000000003 is writing');
      // It outlives a restart.
      await target.close();
      target = await VolumeStore.open({ directory: other });
      const checksum = digests.digest('base64');
      await target.snapshotWriter.complete(snap(3), { changedBlocks: 3, checksum });
      await target.clones.fromSnapshot({ volumeId: B, snapshotId: snap(3) });
      const [copy, original] = [
        await VolumeImage.open(target.chain(B)),
        await VolumeImage.open(store.chain(A)),
      ];
      const [seen, right] = [new Uint8Array(8 * MIB), new Uint8Array(8 * MIB)];
      await copy.readAt(0, seen);
      await original.readAt(0, right);
      expect(Buffer.compare(seen, right)).toBe(0);
      await copy.close();
      await original.close();
    } finally {
      await target.close();
      rmSync(other, { recursive: true });
    }
  });

  describe('and who has the bytes', () => {
    const sumOf = async () => {
      const usage = await store.usage();
      const unique = [...usage.uniqueBytes.values()].reduce((sum, bytes) => sum + bytes, 0);
      expect(unique + usage.sharedBytes + usage.hiddenBytes + usage.overheadBytes).toBe(usage.allocatedBytes);
      return usage;
    };

    it('counts what goes with one alone, what several have, and what nobody reads', async () => {
      await change(A, (image) => image.writeAt(5 * MIB, new Uint8Array(BLOCK).fill(4)));
      const usage = await sumOf();
      // Snapshot 1 alone has the block that was discarded since; the volume alone what it wrote last.
      expect(usage.uniqueBytes.get(snap(1))).toBe(BLOCK);
      expect(usage.uniqueBytes.get(A)).toBe(BLOCK);
      expect(usage.sharedBytes).toBe(5 * BLOCK);
      expect(usage.sharedBytesOf.get(A)).toBe(4 * BLOCK);
      expect(usage.hiddenBytes).toBe(0);
      await store.snapshots.delete(snap(1));
      expect((await sumOf()).hiddenBytes).toBe(BLOCK);
      await store.coalescer.run();
      expect((await sumOf()).hiddenBytes).toBe(0);
    });

    it('gives every byte back when all is deleted in the wrong order', async () => {
      await store.clones.fromSnapshot({ volumeId: B, snapshotId: snap(2) });
      await store.snapshots.delete(snap(2));
      await store.delete(A);
      await store.snapshots.delete(snap(1));
      await store.coalescer.run();
      expect((await sumOf()).hiddenBytes).toBe(0);
      await store.delete(B);
      await store.snapshots.delete(snap(3));
      await store.coalescer.run();
      expect((await sumOf()).allocatedBytes).toBe(0);
      expect(readdirSync(join(directory, 'layers'))).toEqual([]);
    });
  });
});
