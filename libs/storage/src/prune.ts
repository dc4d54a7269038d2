import type { FoldContext } from './fold.js';
import { layerFileOf } from './layer-file.js';
import { forgetSums } from './scrub.js';
import { nextSaid, readBlocks, SAYS } from './layer-blocks.js';
import { BLOCK_BYTES } from './layer-format.js';

const WINDOW_BYTES = 4 * 1024 * 1024;
const BATCH_RUNS = 4096;
/** Holes that are made in one piece. */
const PIECE_RUNS = 32;

/**
 * Punches out of a layer what its only child hides, and returns how many bytes that were.
 *
 * The child's data is made durable first, so that after a power cut it hides the same. Where the child is written
 * meanwhile, requests in flight are waited for twice: those that write, before the flush, as their data would not be in
 * it; and then those that began before such a write completed, as they read from the layer still. What a fold that was
 * given up has copied hides as well, but readers were not told: then nothing is punched, as the fold will go on.
 */
export async function prune({ pool, layer, child, isOver, pacer }: FoldContext): Promise<number> {
  const { disk, paths } = pool;
  if (pool.copiedUp.get(layer.id) === child.id) return 0;
  const below = await disk.open(paths.layerFile(layer.file), 'r+');
  const above = await disk.open(paths.layerFile(child.file), 'r');
  try {
    const [belowFile, aboveFile] = [layerFileOf(layer, below), layerFileOf(child, above)];
    const [lower, upper] = [
      new Uint8Array(WINDOW_BYTES / BLOCK_BYTES),
      new Uint8Array(WINDOW_BYTES / BLOCK_BYTES),
    ];
    let hidden: [number, number][] = [];
    let pruned = 0;
    const punch = async (): Promise<void> => {
      if (hidden.length === 0) return;
      await forgetSums(pool, layer.id);
      const writer = pool.writerOf(child.id);
      await writer?.barrier();
      await above.sync();
      await pool.step('prune.child-flushed');
      await writer?.barrier();
      for (let at = 0; at < hidden.length && !isOver(); at += PIECE_RUNS) {
        await pacer.piece(async () => {
          for (const [offset, length] of hidden.slice(at, at + PIECE_RUNS)) {
            await below.punch(offset, length);
            pruned += length;
          }
          return 0;
        });
        await pool.step('prune.piece-punched');
      }
      await pool.step('prune.punched');
      hidden = [];
    };
    for (let at = nextSaid(belowFile, 0); at !== undefined && !isOver();) {
      const start = Math.floor(at / WINDOW_BYTES) * WINDOW_BYTES;
      await pacer.piece(async () => {
        readBlocks(belowFile, start, lower);
        readBlocks(aboveFile, start, upper);
        return 0;
      });
      for (let i = 0; i < lower.length; i += 1) {
        if (lower[i] !== SAYS.data || upper[i] === SAYS.nothing) continue;
        const offset = start + i * BLOCK_BYTES;
        const last = hidden.at(-1);
        if (last && last[0] + last[1] === offset) last[1] += BLOCK_BYTES;
        else hidden.push([offset, BLOCK_BYTES]);
      }
      if (hidden.length >= BATCH_RUNS) await punch();
      at = nextSaid(belowFile, start + WINDOW_BYTES);
    }
    if (!isOver()) await punch();
    return pruned;
  } finally {
    await below.close();
    await above.close();
  }
}
