import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { checkPool, VolumeImage, VolumeStore } from '@cairn/storage';
import { BLK_STATUS, BLK_TYPE } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ServedStore } from '../support/served-store.js';
import { mountSmallTmpfs } from '../support/small-tmpfs.js';
import { readAll } from '../support/store-checks.js';

const [KIB, MIB] = [2 ** 10, 2 ** 20];
const [A, B] = ['vol-aaaaaaaaaaaaaaaa', 'vol-bbbbbbbbbbbbbbbb'];
const snap = (n: number) => `snap-${String(n).padStart(16, '0')}`;

const trial = mountSmallTmpfs(MIB);
if (typeof trial === 'string') process.stderr.write(`skipped: verbs on a full pool: ${trial}\n`);
else trial.unmount();

describe.skipIf(typeof trial === 'string')('a pool that is full', () => {
  let mounted: { path: string; unmount: () => void };
  let directory: string;
  let filler: string;
  let store: VolumeStore;

  beforeEach(async () => {
    const small = mountSmallTmpfs(16 * MIB);
    if (typeof small === 'string') throw new Error(small);
    mounted = small;
    directory = join(small.path, 'pool');
    filler = join(small.path, 'filler');
    store = await VolumeStore.open({ directory });
    await store.create({ volumeId: A, sizeBytes: 4 * MIB });
    await store.create({ volumeId: B, sizeBytes: 4 * MIB });
    for (const n of [1, 2]) {
      await write(A, (n - 1) * MIB, n);
      await store.snapshots.take([{ snapshotId: snap(n), volumeId: A }]);
    }
    await write(A, 2 * MIB, 3);
  });
  afterEach(async () => {
    await store.close();
    mounted.unmount();
  });

  const write = async (id: string, offset: number, value: number): Promise<void> => {
    const image = await VolumeImage.open(store.chain(id));
    try {
      await image.writeAt(offset, new Uint8Array(MIB).fill(value));
    } finally {
      await image.close();
    }
  };
  const fill = (): void => {
    const fd = openSync(filler, 'w');
    try {
      for (;;) writeSync(fd, Buffer.alloc(4096));
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC' });
    } finally {
      closeSync(fd);
    }
  };
  /** What can be read, and the files that are there. */
  const contents = async () => {
    const sums: string[] = [];
    const chains = [
      ...store.list().map(({ id }) => store.chain(id)),
      ...store.snapshots.list().map(({ id }) => store.snapshots.chain(id)),
    ];
    for (const chain of chains)
      sums.push(
        `${chain.volumeId} ${createHash('sha256')
          .update(await readAll(chain))
          .digest('hex')}`,
      );
    return { sums, files: readdirSync(directory, { recursive: true, encoding: 'utf8' }).toSorted() };
  };

  const verbs: [string, () => Promise<unknown>][] = [
    ['create', () => store.create({ volumeId: 'vol-cccccccccccccccc', sizeBytes: MIB })],
    ['snapshot', () => store.snapshots.take([{ snapshotId: snap(3), volumeId: A }])],
    [
      'group snapshot',
      () =>
        store.snapshots.take(
          [
            { snapshotId: snap(3), volumeId: A },
            { snapshotId: snap(4), volumeId: B },
          ],
          { group: 'both' },
        ),
    ],
    [
      'volume from a snapshot',
      () => store.clones.fromSnapshot({ volumeId: 'vol-cccccccccccccccc', snapshotId: snap(1) }),
    ],
    [
      'clone of a volume',
      () => store.clones.ofVolume({ volumeId: 'vol-cccccccccccccccc', sourceVolumeId: A }),
    ],
    ['revert', () => store.clones.revert(A, snap(1))],
    ['grow', () => store.grow(A, 5 * MIB)],
    ['written snapshot', () => store.snapshotWriter.start({ snapshotId: snap(9), sizeBytes: MIB })],
    ['scrub', () => store.scrub()],
  ];
  it.each(verbs)('refuses a %s, changes nothing, and does it when there is space again', async (_, verb) => {
    const before = await contents();
    fill();
    await expect(verb()).rejects.toMatchObject({ kind: 'pool-full' });
    expect(await contents()).toEqual(before);
    rmSync(filler);
    await verb();
    await store.close();
    expect((await checkPool(directory)).findings.filter(({ severity }) => severity !== 'notice')).toEqual([]);
  });

  it('is told of a fold that has no room, reads the same, and folds when there is', async () => {
    await store.snapshots.delete(snap(1));
    const { sums } = await contents();
    fill();
    await expect(store.coalescer.run()).rejects.toMatchObject({ kind: 'pool-full' });
    expect((await contents()).sums).toEqual(sums);
    rmSync(filler);
    expect((await store.coalescer.run()).folded).toBe(1);
    expect((await contents()).sums).toEqual(sums);
    await store.close();
    expect((await checkPool(directory)).findings).toEqual([]);
  });

  it('lets snapshots and volumes be deleted, which makes room', async () => {
    fill();
    const { freeBytes } = await store.capacity();
    await store.snapshots.delete(snap(2));
    await store.snapshots.delete(snap(1));
    await store.delete(A);
    expect((await store.capacity()).freeBytes).toBeGreaterThanOrEqual(freeBytes + 3 * MIB);
    await store.create({ volumeId: 'vol-cccccccccccccccc', sizeBytes: MIB });
  });

  it('fails a write of a guest, loses nothing, and takes it when there is space again', async () => {
    fill();
    await expect(write(A, 3 * MIB, 4)).rejects.toMatchObject({ kind: 'pool-full' });
    rmSync(filler);
    await write(A, 3 * MIB, 4);
    const bytes = await readAll(store.chain(A));
    expect([0, 1, 2, 3].map((n) => bytes.subarray(n * MIB, (n + 1) * MIB).every((b) => b === n + 1))).toEqual(
      [true, true, true, true],
    );
  });

  it('fails writes of a guest that runs, also copied up and discarded ones, and takes them later', async () => {
    await store.close();
    const served = await ServedStore.open(directory, { cache: 'writeback' });
    store = served.store;
    try {
      await served.serve(A);
      const disk = await served.connect(A);
      fill();
      const sector = (offset: number) => offset / 512;
      // Over nothing, over what a layer below has, and half of what that has.
      for (const [offset, length] of [
        [3 * MIB, MIB],
        [0, 8 * KIB],
        [MIB + 512, 512],
      ] as const) {
        const write = { type: BLK_TYPE.OUT, sector: sector(offset), out: Buffer.alloc(length, 9) };
        expect((await disk.request(write)).status).toBe(BLK_STATUS.IOERR);
      }
      const { switchHeads } = served;
      const third = [{ snapshotId: snap(3), volumeId: A }];
      await expect(store.snapshots.take(third, { switchHeads })).rejects.toMatchObject({ kind: 'pool-full' });
      for (const n of [0, 1, 2, 3])
        expect(Buffer.compare(await disk.read(n * MIB, MIB), Buffer.alloc(MIB, n === 3 ? 0 : n + 1))).toBe(0);
      // The head's own megabyte comes back, and the guest goes on with that.
      await disk.discard([{ offsetBytes: 2 * MIB, lengthBytes: MIB }]);
      await disk.write(MIB + 512, Buffer.alloc(512, 9));
      rmSync(filler);
      await store.snapshots.take(third, { switchHeads });
      await disk.discard([{ offsetBytes: 0, lengthBytes: MIB }]);
      await disk.write(3 * MIB, Buffer.alloc(MIB, 4));
      await disk.flush();
      disk.close();
      await served.stopServing(A);
      const bytes = await readAll(store.chain(A));
      const expected = Buffer.concat([0, 2, 0, 4].map((value) => Buffer.alloc(MIB, value)));
      expected.fill(9, MIB + 512, MIB + 1024);
      expect(Buffer.compare(bytes, expected)).toBe(0);
    } finally {
      await served.close();
    }
    expect((await checkPool(directory)).findings).toEqual([]);
  });
});
