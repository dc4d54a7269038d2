// Every verb of the volume store, one after the other, in a process of its own: node store-tour.mjs DIST DIRECTORY [STEP N].
// With a step, the process kills itself when it reaches that step for the N-th time. Run again after any end, the tour
// comes to the same end. Prints how often each step was reached.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const [dist, directory, armed, count = '1'] = process.argv.slice(2);
const { VolumeStore, VolumeImage, SNAPSHOT_BLOCK_BYTES } = await import(`${dist}/libs/storage/src/index.js`);

const MIB = 2 ** 20;
const [A, B, C, D] = ['a', 'b', 'c', 'd'].map((letter) => `vol-${letter.repeat(16)}`);
const snap = (n) => `snap-${String(n).padStart(16, '0')}`;
const reached = {};

const store = await VolumeStore.open({
  directory,
  onStep: (step) => {
    reached[step] = (reached[step] ?? 0) + 1;
    if (step === armed && reached[step] === Number(count)) process.kill(process.pid, 'SIGKILL');
  },
});

const write = async (id, value, from, blocks) => {
  const open = {};
  const chain = await store.attach(id, {
    barrier: () => open.image.barrier(),
    chainChanged: (changed) => open.image.goOver(changed),
  });
  open.image = await VolumeImage.open(chain);
  if (value === 0) await open.image.discard(from * 4096, blocks * 4096);
  else await open.image.writeAt(from * 4096, new Uint8Array(blocks * 4096).fill(value));
  await open.image.flush();
  return async () => {
    await open.image.close();
    await store.detach(id);
  };
};
const wrote = async (...args) => (await write(...args))();
const take = (n, ...volumeIds) =>
  store.snapshots.take(
    volumeIds.map((volumeId, i) => ({ snapshotId: snap(n + i), volumeId })),
    volumeIds.length > 1 ? { group: `group-${n}` } : {},
  );

const verbs = [
  () => store.create({ volumeId: A, sizeBytes: MIB }),
  () => store.create({ volumeId: B, sizeBytes: MIB }),
  () => wrote(A, 1, 0, 64),
  () => take(1, A),
  () => wrote(A, 2, 32, 64),
  () => wrote(A, 0, 8, 8),
  () => take(2, A, B),
  () => wrote(A, 3, 0, 4),
  () => take(4, A),
  () => store.clones.fromSnapshot({ volumeId: C, snapshotId: snap(2), sizeBytes: 2 * MIB }),
  () => wrote(C, 4, 250, 20),
  () => store.grow(A, 3 * MIB),
  () => store.snapshots.delete(snap(1)),
  async () => {
    const endWriting = await write(A, 5, 30, 8);
    await store.coalescer.run();
    await endWriting();
  },
  () => store.snapshots.delete(snap(2)),
  () => store.coalescer.run(),
  () => store.clones.revert(A, snap(4)),
  () => store.clones.ofVolume({ volumeId: D, sourceVolumeId: B }),
  () => store.delete(D),
  () => store.snapshotWriter.start({ snapshotId: snap(9), sizeBytes: MIB, parentSnapshotId: snap(3) }),
  () => {
    const data = new Uint8Array(SNAPSHOT_BLOCK_BYTES).fill(9);
    const checksum = createHash('sha256').update(data).digest('base64');
    return store.snapshotWriter.putBlock(snap(9), 1, data, checksum);
  },
  () => store.snapshotWriter.complete(snap(9), { changedBlocks: 1 }),
  // A small layer over a large one, which is folded down.
  () => wrote(A, 6, 0, 64),
  () => take(5, A),
  () => wrote(A, 7, 60, 8),
  () => take(6, A),
  () => store.snapshots.delete(snap(5)),
  () => store.coalescer.run(),
];
// A verb that had not ended is asked for again, like an operation whose worker died.
const progress = `${directory}.progress`;
const done = existsSync(progress) ? Number(readFileSync(progress, 'utf8')) : 0;
for (const [i, verb] of verbs.entries()) {
  if (i < done) continue;
  await verb();
  writeFileSync(progress, String(i + 1));
}
await store.close();
process.stdout.write(`${JSON.stringify(reached)}\n`);
