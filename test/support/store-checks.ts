import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { StorageError, type VolumeChain, VolumeImage, type VolumeStore } from '@cairn/storage';
import { BLOCK, type Content, expectedUsage } from './volume-content.js';

const STAT_BLOCK_BYTES = 512;

/** A snapshot as a model has it; no volume's when it was written from blocks. */
export interface ModelSnapshot {
  content: Content;
  volumeId: string | undefined;
}

/** Every byte that is read from a chain. */
export const readAll = async (chain: VolumeChain): Promise<Uint8Array> => {
  const image = await VolumeImage.open(chain, { readOnly: true });
  try {
    const bytes = new Uint8Array(image.sizeBytes);
    await image.readAt(0, bytes);
    return bytes;
  } finally {
    await image.close();
  }
};

/** Throws when an image reads another than these bytes in a range. */
export const expectSame = async (
  id: string,
  image: VolumeImage,
  bytes: Uint8Array,
  start = 0,
  length = bytes.length,
): Promise<void> => {
  if (image.sizeBytes !== bytes.length)
    throw new Error(`${id} has ${image.sizeBytes} bytes, not ${bytes.length}`);
  const seen = new Uint8Array(length);
  await image.readAt(start, seen);
  if (Buffer.compare(seen, bytes.subarray(start, start + length)) === 0) return;
  const at = seen.findIndex((byte, i) => byte !== bytes[start + i]);
  throw new Error(`${id} differs at block ${(start + at) / BLOCK}: ${seen[at]}, not ${bytes[start + at]}`);
};

/** Throws when a volume is served from files that its chain does not have any more. */
export const expectChain = (chain: VolumeChain, served: VolumeChain): void => {
  const [right, seen] = [chain, served].map(({ layers }) => layers.map(({ path }) => path));
  // After a snapshot that was given up, a head is served that is not the newest one, which is empty.
  const same = right!.slice(0, seen!.length).every((path, i) => path === seen![i]);
  if (!same || seen!.length < right!.length - 1)
    throw new Error(`served from ${String(seen)}, not ${String(right)}`);
};

/**
 * Throws unless the store says of each volume and snapshot how many bytes only it has and how many it shares, the sum
 * is what the pool's files take, and no file is there that is not counted.
 */
export const expectUsage = async (
  store: VolumeStore,
  directory: string,
  contents: ReadonlyMap<string, Content>,
): Promise<void> => {
  const usage = await store.usage();
  const expected = expectedUsage(contents);
  for (const [id, bytes] of expected.uniqueBytes) {
    const [unique, shared] = [usage.uniqueBytes.get(id), usage.sharedBytesOf.get(id)];
    const right = `${bytes} + ${expected.sharedBytesOf.get(id)}`;
    if (`${unique} + ${shared}` !== right)
      throw new Error(`${id} is said to have ${unique} + ${shared} bytes, not ${right}`);
  }
  if (usage.sharedBytes !== expected.sharedBytes)
    throw new Error(`${usage.sharedBytes} bytes are said to be shared, not ${expected.sharedBytes}`);
  const layers = join(directory, 'layers');
  const files = readdirSync(layers).filter((name) => name.endsWith('.img'));
  const taken = files.reduce((sum, name) => sum + statSync(join(layers, name)).blocks * STAT_BLOCK_BYTES, 0);
  if (taken !== usage.allocatedBytes)
    throw new Error(`the files take ${taken} bytes, counted are ${usage.allocatedBytes}`);
};

/** Throws unless the store names just the blocks that each snapshot has, and that differ from earlier ones of its line. */
export const expectChangedBlocks = async (
  store: VolumeStore,
  snapshots: ReadonlyMap<string, ModelSnapshot>,
): Promise<void> => {
  for (const [id, { content }] of snapshots) {
    await expectExtents(store, id, undefined, content, undefined);
    for (const [earlier, { content: before }] of snapshots) {
      if (earlier === id) continue;
      await expectExtents(store, id, earlier, content, before).catch((error: unknown) => {
        if (!(error instanceof StorageError && error.kind === 'snapshots-unrelated')) throw error;
      });
    }
  }
};

const expectExtents = async (
  store: VolumeStore,
  id: string,
  sinceSnapshotId: string | undefined,
  now: Content,
  before: Content | undefined,
): Promise<void> => {
  const said = new Map<number, boolean>();
  const options = sinceSnapshotId === undefined ? {} : { sinceSnapshotId };
  for (const { offsetBytes, lengthBytes, zeroes } of (await store.changedBlocks.extents(id, options)).extents)
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += BLOCK) said.set(at / BLOCK, zeroes);
  for (const [i, block] of now.blocks.entries()) {
    const earlier = before?.blocks[i] ?? 0;
    // A block that was discarded twice may be named twice.
    const right = block === earlier ? [undefined, ...(block === 0 ? [true] : [])] : [block === 0];
    if (!right.includes(said.get(i)))
      throw new Error(
        `block ${i} of ${id} since ${sinceSnapshotId}: ${said.get(i)}, not ${right.join(' or ')}`,
      );
  }
};

/** Was it refused because the pool is full? */
export const isFull = (error: unknown): boolean =>
  error instanceof StorageError && error.kind === 'pool-full';

/** One of the keys of a map; undefined when it is empty. */
export const pickOf = (
  from: ReadonlyMap<string, unknown>,
  random: (below: number) => number,
): string | undefined => [...from.keys()][random(from.size)];
