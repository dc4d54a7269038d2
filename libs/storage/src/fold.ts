import type { DiskFile } from './disk.js';
import { eachRun, nextSaid, readBlocks, SAYS } from './layer-blocks.js';
import { layerFileOf } from './layer-file.js';
import { BLOCK_BYTES, type LayerFile, ZEROED, zeroMapPosition } from './layer-format.js';
import type { Pacer } from './pacer.js';
import type { Pool } from './pool.js';
import type { LayerRecord } from './records.js';
import { forgetSums } from './scrub.js';
import type { Step } from './steps.js';
import { isUncertain, StorageError } from './storage-error.js';

// Two ways to make one layer of two, `layer` below and its only `child`, which nobody writes:
//
//   up    the child takes what only the layer says; then its parent is the layer's parent
//   down  the layer takes what the child says; then the child's file is the layer's, and its parent the layer's parent
//
// Both change one manifest, the child's, and what is read is the same before and after it: until then the child hides
// whatever was copied. The way that copies less is taken: the oldest of many snapshots is large, its successor small.

const WINDOW_BYTES = 4 * 1024 * 1024;
const PIECE_BYTES = 512 * 1024;
/** What was copied is made durable this often, so that the last flush is not one that the disk's other users wait for. */
const SYNC_BYTES = 64 * 1024 * 1024;

export interface FoldContext {
  pool: Pool;
  layer: LayerRecord;
  child: LayerRecord;
  /** Must it end now? Once it must, it always must. */
  isOver: () => boolean;
  /** Runs what is done, piece by piece. */
  pacer: Pacer;
  /** So many bytes more were copied, of about so many. */
  onCopied: (bytes: number, totalBytes: number) => void;
}

/** Folds; false when it had to be left for later. */
export async function fold(context: FoldContext): Promise<boolean> {
  const { pool, layer, child } = context;
  if (pool.writerOf(child.id) || context.isOver()) return false;
  const [below, above] = await Promise.all(
    [layer, child].map((each) => pool.disk.stat(pool.paths.layerFile(each.file))),
  );
  const [belowBytes, aboveBytes] = [below?.allocatedBytes ?? 0, above?.allocatedBytes ?? 0];
  const down = aboveBytes <= belowBytes;
  const total = down ? aboveBytes : belowBytes;
  await forgetSums(pool, layer.id);
  await forgetSums(pool, child.id);
  if (!down) pool.copiedUp.set(layer.id, child.id);
  if (!(await (down ? copyDown(context, total) : copyUp(context, total)))) return false;
  const way = down ? 'fold-down' : 'fold-up';
  await pool.step(`${way}.flushed`);
  const folded: LayerRecord = down
    ? { ...child, file: layer.file, zeroMapOffsetBytes: layer.zeroMapOffsetBytes, parent: layer.parent }
    : { ...child, parent: layer.parent };
  const told = await finish(context, folded, way);
  if (!told) return false;
  await Promise.all(told);
  await pool.step(`${way}.readers-told`);
  pool.copiedUp.delete(layer.id);
  // The layer's own manifest goes with the garbage; its file only when it is not the child's now.
  if (folded.file !== child.file) await pool.removeFile(child.file);
  return true;
}

/** Writes the child's manifest, and tells those that read through it; undefined when that must wait. */
function finish(
  { pool, child, isOver }: FoldContext,
  folded: LayerRecord,
  way: 'fold-up' | 'fold-down',
): Promise<Promise<void>[] | undefined> {
  return pool.turns.run(['fold-finish'], async () => {
    const readers = [...pool.graph.volumes.values()].filter(({ headLayer }) =>
      pool.graph.chainOf(headLayer).some(({ id }) => id === child.id),
    );
    // A switch under way was told paths that would be gone.
    if (isOver() || readers.some(({ id }) => pool.switching.has(id))) return undefined;
    try {
      await pool.writeLayer(folded);
    } catch (error) {
      if (!isUncertain(error)) throw error;
      // Which file the child has is not known. Nobody may write to it until the pool is opened anew.
      for (const { id, headLayer } of readers) {
        if (headLayer !== child.id) continue;
        const reason = `${id} needs its pool to be opened anew`;
        pool.broken.set(id, new StorageError('io', { op: 'fold layer', reason }, { cause: error }));
      }
      throw error;
    }
    await pool.step(`${way}.child-written`);
    return readers.flatMap(
      (volume) => pool.live.get(volume.id)?.volume.chainChanged(pool.chainOf(volume)) ?? [],
    );
  });
}

async function copyUp(context: FoldContext, totalBytes: number): Promise<boolean> {
  const { pool, layer, child } = context;
  return withFiles(context, 'r', 'r+', async (below, above) => {
    const [lower, upper] = [layerFileOf(layer, below), layerFileOf(child, above)];
    const hiding = new Uint8Array(WINDOW_BYTES / BLOCK_BYTES);
    const copy = copier(context, { from: below, to: above, totalBytes, step: 'fold-up.piece-copied' });
    const done = await eachWindow(context, lower, async (blocks, start) => {
      readBlocks(upper, start, hiding);
      for (let i = 0; i < blocks.length; i += 1) if (hiding[i] !== SAYS.nothing) blocks[i] = SAYS.nothing;
      await eachRun(blocks, start, async (kind, offset, length) => {
        if (kind === SAYS.data) {
          await copy(offset, length);
        } else if (layer.parent !== null) {
          await sayZeroes(above, child.zeroMapOffsetBytes!, offset, length);
        }
      });
    });
    if (!done) return false;
    await pool.step('fold-up.copied');
    await above.sync();
    return true;
  });
}

async function copyDown(context: FoldContext, totalBytes: number): Promise<boolean> {
  const { pool, layer, child } = context;
  return withFiles(context, 'r+', 'r', async (below, above) => {
    const size = child.sizeBytes;
    // Left there by a fold that was given up, and since then discarded above: it must not come back.
    if (size > layer.sizeBytes) await below.punch(layer.sizeBytes, size - layer.sizeBytes);
    await pool.step('fold-down.parent-cut');
    const copy = copier(context, { from: above, to: below, totalBytes, step: 'fold-down.piece-copied' });
    const done = await eachWindow(context, layerFileOf(child, above), (blocks, start) =>
      eachRun(blocks, start, async (kind, offset, length) => {
        if (kind === SAYS.data) return copy(offset, length);
        const inLayer = Math.min(length, layer.sizeBytes - offset);
        if (inLayer <= 0) return;
        if (layer.parent !== null) await sayZeroes(below, layer.zeroMapOffsetBytes!, offset, inLayer);
        return context.pacer.piece(async () => {
          await below.punch(offset, inLayer);
          return 0;
        });
      }),
    );
    if (!done) return false;
    const path = pool.paths.layerFile(layer.file);
    if (((await pool.disk.stat(path))?.sizeBytes ?? 0) < size) await below.truncate(size);
    await pool.step('fold-down.copied');
    await below.sync();
    return true;
  });
}

interface Copying {
  from: DiskFile;
  to: DiskFile;
  totalBytes: number;
  step: Step;
}

/** Copies ranges piece by piece; ends in the middle of one when it must. */
function copier(
  { pool, pacer, isOver, onCopied }: FoldContext,
  { from, to, totalBytes, step }: Copying,
): (offset: number, length: number) => Promise<void> {
  let unsynced = 0;
  return async (offset, length) => {
    for (let at = offset; at < offset + length && !isOver(); at += PIECE_BYTES) {
      const bytes = Math.min(PIECE_BYTES, offset + length - at);
      await pacer.piece(async () => {
        await to.copyFrom(from, at, bytes);
        unsynced += bytes;
        if (unsynced >= SYNC_BYTES) {
          await to.sync();
          unsynced = 0;
        }
        return bytes;
      });
      onCopied(bytes, totalBytes);
      await pool.step(step);
    }
  };
}

/** Goes through the windows in which a layer says anything; false when it had to end early. */
async function eachWindow(
  { pool, child, isOver, pacer }: FoldContext,
  file: LayerFile,
  visit: (blocks: Uint8Array, start: number) => Promise<void>,
): Promise<boolean> {
  const blocks = new Uint8Array(WINDOW_BYTES / BLOCK_BYTES);
  for (let at = nextSaid(file, 0); at !== undefined;) {
    if (isOver() || pool.writerOf(child.id)) return false;
    const start = Math.floor(at / WINDOW_BYTES) * WINDOW_BYTES;
    await pacer.piece(async () => {
      readBlocks(file, start, blocks);
      return 0;
    });
    await visit(blocks, start);
    at = nextSaid(file, start + WINDOW_BYTES);
  }
  return !isOver() && !pool.writerOf(child.id);
}

const sayZeroes = (
  file: DiskFile,
  zeroMapOffsetBytes: number,
  offset: number,
  length: number,
): Promise<void> =>
  file.write(new Uint8Array(length / BLOCK_BYTES).fill(ZEROED), zeroMapPosition(zeroMapOffsetBytes, offset));

async function withFiles<T>(
  { pool, layer, child }: FoldContext,
  belowFlags: 'r' | 'r+',
  aboveFlags: 'r' | 'r+',
  work: (below: DiskFile, above: DiskFile) => Promise<T>,
): Promise<T> {
  const below = await pool.disk.open(pool.paths.layerFile(layer.file), belowFlags);
  try {
    const above = await pool.disk.open(pool.paths.layerFile(child.file), aboveFlags);
    try {
      return await work(below, above);
    } finally {
      await above.close();
    }
  } finally {
    await below.close();
  }
}
