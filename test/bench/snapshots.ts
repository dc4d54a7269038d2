import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, ftruncateSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { ExtentMap, ExtentRuns, type LayerFile, VolumeImage, VolumeStore } from '@cairn/storage';
import { type BenchContext, median } from './matrix.js';
import { markdown } from './table.js';

const BLOCK_BYTES = 4096;
const SMALL = { name: '1 GiB', sizeBytes: 2 ** 30, extents: 1000 };
const LARGE_BYTES = 2 ** 40;
const LAYERS = 10;
/** The map is asked in the unit in which it looks things up; each place is asked for the first time, and again. */
const TOUCHES = 2000;
const MAP_BYTES = 64 * 2 ** 20;
const volumeId = 'vol-0000000000000001';
const snapshotOf = (n: number): string => `snap-${n.toString(16).padStart(16, '0')}`;
const cloneOf = (n: number): string => `vol-${n.toString(16).padStart(16, 'c')}`;

interface Subject {
  name: string;
  sizeBytes: number;
  extents: number;
}

type Times = Map<string, number[]>;

/** What a snapshot and a clone cost, of a small volume and of a large one in a million pieces; the same by qemu-img. */
export const measureSnapshots = async (context: BenchContext, extents: number): Promise<string> => {
  const subjects: Subject[] = [SMALL, { name: '1 TiB', sizeBytes: LARGE_BYTES, extents }];
  const columns: Times[] = [];
  for (const subject of subjects) columns.push(await measureOne(context, subject));
  const [small, large] = columns.map(
    (times) => new Map([...times].map(([what, all]) => [what, median(all)])),
  );
  const rows = [...large!].map(([what, millis]) => [
    what,
    millisText(small!.get(what)!),
    millisText(millis),
    `${(millis / small!.get(what)!).toFixed(1)} ×`,
  ]);
  const heads = subjects.map(({ name, extents: count }) => `${name}, ${count} extents`);
  context.onProgress(`an extent map over ${LAYERS} layers`);
  return `${markdown([['ms, medians', ...heads, 'large : small'], ...rows])}\n${measureMap(context, extents)}`;
};

const measureOne = async ({ volumes, pace, onProgress }: BenchContext, subject: Subject): Promise<Times> => {
  const times: Times = new Map();
  const timed = async <T>(what: string, work: () => Promise<T> | T): Promise<T> => {
    const began = performance.now();
    const result = await work();
    times.set(what, [...(times.get(what) ?? []), performance.now() - began]);
    return result;
  };
  onProgress(`${subject.name}: writing ${subject.extents} extents`);
  const directory = join(volumes.scratch(), 'pool');
  const store = await VolumeStore.open({ directory, overcommitRatio: 1e6 });
  await store.create({ volumeId, sizeBytes: subject.sizeBytes });
  const path = store.filePath(volumeId);
  writePieces(path, subject.extents);
  const { rounds } = pace;
  onProgress(`${subject.name}: qemu-img`);
  const qcow = join(directory, '..', 'copy.qcow2');
  await timed('qemu-img convert to qcow2: a copy', () =>
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', path, qcow),
  );
  for (let n = 0; n < rounds; n += 1) {
    await timed('qemu-img snapshot -c of a qcow2 file', () => qemuImg('snapshot', '-c', `s${n}`, qcow));
    const overlay = join(directory, '..', `overlay-${n}.qcow2`);
    const base = ['-f', 'qcow2', '-F', 'qcow2', '-b', qcow];
    await timed('qemu-img create -b: an overlay', () => qemuImg('create', '-q', ...base, overlay));
  }
  for (let n = 0; n < rounds; n += 1)
    await timed('qemu-img snapshot -d', () => qemuImg('snapshot', '-d', `s${n}`, qcow));
  rmSync(qcow);

  onProgress(`${subject.name}: cairn`);
  for (let n = 0; n < rounds; n += 1) {
    const snapshotId = snapshotOf(n);
    await timed('cairn: snapshot, detached', () => store.snapshots.take([{ snapshotId, volumeId }]));
    await timed('cairn: volume from it', () =>
      store.clones.fromSnapshot({ volumeId: cloneOf(n), snapshotId }),
    );
    const clone = await VolumeImage.open(store.chain(cloneOf(n)));
    const at = Math.floor(subject.extents / 2) * 2 * BLOCK_BYTES;
    await timed('cairn: first read from that', () => clone.readAt(at, new Uint8Array(BLOCK_BYTES)));
    await timed('cairn: first write to that', () => clone.writeAt(at, new Uint8Array(BLOCK_BYTES)));
    await clone.close();
  }
  const open: { image?: VolumeImage } = {};
  const chain = await store.attach(volumeId, {
    barrier: () => open.image!.barrier(),
    chainChanged: (changed) => open.image!.goOver(changed),
  });
  const image = await VolumeImage.open(chain);
  open.image = image;
  // The whole comes before its part.
  times.set('cairn: snapshot, attached', []);
  for (let n = 0; n < rounds; n += 1) {
    await image.writeAt(n * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES));
    const request = { snapshotId: snapshotOf(rounds + n), volumeId };
    await timed('cairn: snapshot, attached', () =>
      store.snapshots.take([request], {
        switchHeads: ([only]) =>
          timed('of that, no request is served, flush included', () => image.goOver(only!.chain)),
      }),
    );
  }
  for (let n = 0; n < rounds; n += 1)
    await timed('cairn: delete of a snapshot', () => store.snapshots.delete(snapshotOf(rounds + n)));
  await image.close();
  await store.detach(volumeId);
  await store.close();
  rmSync(directory, { recursive: true });
  // Ours first.
  return new Map(
    [...times].toSorted(([a], [b]) => Number(a.startsWith('qemu')) - Number(b.startsWith('qemu'))),
  );
};

/** A block of data, a block of hole, and so on: as many extents as blocks. */
const writePieces = (path: string, extents: number): void => {
  const fd = openSync(path, 'r+');
  const block = Buffer.alloc(BLOCK_BYTES, 7);
  for (let n = 0; n < extents; n += 1) writeSync(fd, block, 0, BLOCK_BYTES, n * 2 * BLOCK_BYTES);
  fsyncSync(fd);
  closeSync(fd);
};

/** What it costs to touch a place for the first time, and again, and how much memory the answers take at most. */
const measureMap = ({ volumes }: BenchContext, extents: number): string => {
  const directory = volumes.scratch();
  const layers: LayerFile[] = [];
  const block = Buffer.alloc(BLOCK_BYTES, 7);
  let state = 1;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let layer = 0; layer < LAYERS; layer += 1) {
    const fd = openSync(join(directory, `${layer}.img`), 'wx+');
    ftruncateSync(fd, LARGE_BYTES);
    const blocks = LARGE_BYTES / BLOCK_BYTES;
    for (let n = 0; n < extents / LAYERS; n += 1)
      writeSync(fd, block, 0, BLOCK_BYTES, random(blocks) * BLOCK_BYTES);
    layers.push({ fd, sizeBytes: LARGE_BYTES });
  }
  const map = new ExtentMap({ layers, sizeBytes: LARGE_BYTES, maxBytes: MAP_BYTES });
  const runs = new ExtentRuns();
  const touch = (offset: number): number => {
    const began = performance.now();
    map.resolve(offset, BLOCK_BYTES, runs);
    return (performance.now() - began) * 1000;
  };
  const places = Array.from({ length: TOUCHES }, (_, n) => n * Math.floor(LARGE_BYTES / TOUCHES));
  const [first, again] = [places.map(touch), places.map(touch)];
  for (let offset = 0; offset < LARGE_BYTES; offset += LARGE_BYTES / 2 ** 16) touch(offset);
  for (const { fd } of layers) closeSync(fd);
  const last = (times: readonly number[]): number =>
    times.toSorted((a, b) => a - b)[Math.floor(times.length * 0.99)]!;
  const row = (what: string, times: readonly number[]): string[] => [
    what,
    `${median([...times]).toFixed(1)} µs`,
    `${last(times).toFixed(1)} µs`,
  ];
  return markdown([
    [`1 TiB, ${LAYERS} layers, ${extents} random fragments`, 'median', 'p99'],
    row('which layer, first touch of 4 MiB', first),
    row('which layer, again', again),
    [`memory of the answers after 65536 places`, `${(map.memoryBytes / 2 ** 20).toFixed(0)} MiB`, ''],
  ]);
};

const qemuImg = (...args: string[]): void =>
  void execFileSync('qemu-img', args, { stdio: ['ignore', 'ignore', 'inherit'] });

const millisText = (millis: number): string => (millis < 10 ? millis.toFixed(2) : millis.toFixed(0));
