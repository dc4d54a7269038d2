import { createHash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { writeFileAtomic } from './atomic-file.js';
import { eachRun, nextSaid, readBlocks, SAYS } from './layer-blocks.js';
import { layerFileOf } from './layer-file.js';
import { BLOCK_BYTES } from './layer-format.js';
import { manifestRefused, type ManifestShape, Refusal, sealManifest, unsealManifest } from './manifest.js';
import type { Pool } from './pool.js';
import type { LayerRecord } from './records.js';
import { StorageError, storageErrorOf } from './storage-error.js';

// layers/lay-….sum: SHA-256 of each 4 MiB of a sealed layer in which it says anything, in order, positions included. It is
// removed before anything changes the layer's file, and made again by the next scrub.

const WINDOW_BYTES = 4 * 1024 * 1024;
const SHAPE: ManifestShape = { version: 1, fields: ['id', 'file', 'sums'] };
const SUM = /^[0-9a-f]{64}$/;

export interface ScrubOptions {
  /** Bytes that may be read a second; undefined: as fast as it goes. */
  bytesPerSecond?: number;
  /** Ends the run before the next layer. */
  signal?: AbortSignal;
}

export interface ScrubReport {
  /** Layers that were read for the first time, and have checksums now. */
  summed: string[];
  /** Layers that are what they were. */
  sound: string[];
  /** Layers that cannot be read, or whose data is another than when they were sealed. */
  damaged: LayerDamage[];
}

/** What is wrong with a layer, and which volumes and snapshots are read from it. */
export interface LayerDamage {
  layer: string;
  what: string;
  readBy: string[];
}

type Verdict = { is: 'sound' } | { is: 'unsummed'; sums: string[] } | { is: 'damaged'; what: string };

/** Reads every layer that a snapshot names: makes checksums of those that have none, and compares the others. */
export async function scrubPool(pool: Pool, options: ScrubOptions = {}): Promise<ScrubReport> {
  const report: ScrubReport = { summed: [], sound: [], damaged: [] };
  const sealed = new Set(
    [...pool.graph.snapshots.values()].flatMap(({ layer, state }) => (state === 'completed' ? [layer] : [])),
  );
  for (const id of sealed) {
    if (options.signal?.aborted === true) break;
    // No fold may change its file meanwhile; one that wants to waits.
    await pool.turns.run([id], async () => {
      const layer = pool.graph.findLayer(id);
      if (!layer || pool.writerOf(id)) return;
      const verdict = await judge(pool, layer, await readSumsOrWhy(pool, layer), options);
      if (verdict.is === 'unsummed') {
        const sealed = sealManifest(SHAPE, { id, file: layer.file, sums: verdict.sums });
        await writeSums(pool, id, sealed);
        report.summed.push(id);
      } else if (verdict.is === 'sound') {
        report.sound.push(id);
      } else {
        report.damaged.push(damageOf(pool, layer, verdict.what));
      }
    });
  }
  return report;
}

/** Compares every layer that has checksums with them; makes none. */
export async function compareSums(pool: Pool): Promise<LayerDamage[]> {
  const damaged: LayerDamage[] = [];
  for (const layer of pool.graph.listLayers()) {
    const known = await readSumsOrWhy(pool, layer);
    if (known === undefined) continue;
    const verdict = await judge(pool, layer, known);
    if (verdict.is === 'damaged') damaged.push(damageOf(pool, layer, verdict.what));
  }
  return damaged;
}

/** Reads a layer, and says how it compares with its checksums, or with the reason why they are refused. */
async function judge(
  pool: Pool,
  layer: LayerRecord,
  known: string[] | StorageError | undefined,
  options: ScrubOptions = {},
): Promise<Verdict> {
  if (known instanceof StorageError) return { is: 'damaged', what: known.message };
  let sums: string[];
  try {
    sums = await sumLayer(pool, layer, options);
  } catch (error) {
    if (error instanceof StorageError && error.kind === 'io') return { is: 'damaged', what: error.message };
    throw error;
  }
  if (!known) return { is: 'unsummed', sums };
  const at = known.findIndex((sum, i) => sum !== sums[i]);
  if (at < 0 && known.length === sums.length) return { is: 'sound' };
  const part = at < 0 ? known.length : at;
  return { is: 'damaged', what: `its data is not what it was, first in part ${part} of 4 MiB with data` };
}

const damageOf = ({ graph }: Pool, { id }: LayerRecord, what: string): LayerDamage => ({
  layer: id,
  what,
  readBy: graph.readersOf(id),
});

const readSumsOrWhy = (pool: Pool, layer: LayerRecord): Promise<string[] | StorageError | undefined> =>
  readSums(pool, layer).catch((error: unknown) => {
    if (error instanceof StorageError && error.kind === 'manifest-corrupt') return error;
    throw error;
  });

async function writeSums(pool: Pool, id: string, text: string): Promise<void> {
  const path = sumPath(pool, id);
  try {
    await writeFileAtomic(path, text, pool.disk);
  } catch (error) {
    throw storageErrorOf('write checksums', path, error);
  }
}

/** The checksums that a layer had when it was first scrubbed; undefined when it was not. */
async function readSums(pool: Pool, { id, file }: LayerRecord): Promise<string[] | undefined> {
  const path = sumPath(pool, id);
  if ((await pool.disk.stat(path)) === undefined) return undefined;
  try {
    const { fields } = unsealManifest(await pool.disk.readText(path), [SHAPE]);
    const { sums } = fields;
    if (
      fields.id !== id ||
      !Array.isArray(sums) ||
      !sums.every((sum): sum is string => SUM.test(String(sum)))
    )
      throw new Refusal('it has no checksums of this layer');
    return fields.file === file ? sums : undefined;
  } catch (error) {
    if (error instanceof Refusal) throw manifestRefused(path, error.message);
    throw storageErrorOf('read checksums', path, error);
  }
}

/** The checksums of what a layer says now. */
async function sumLayer(
  pool: Pool,
  layer: LayerRecord,
  { bytesPerSecond }: ScrubOptions = {},
): Promise<string[]> {
  const path = pool.paths.layerFile(layer.file);
  const sums: string[] = [];
  try {
    const file = await pool.disk.open(path, 'r');
    try {
      const extents = layerFileOf(layer, file);
      const blocks = new Uint8Array(WINDOW_BYTES / BLOCK_BYTES);
      for (let at = nextSaid(extents, 0); at !== undefined;) {
        const start = Math.floor(at / WINDOW_BYTES) * WINDOW_BYTES;
        readBlocks(extents, start, blocks);
        const hash = createHash('sha256');
        let bytes = 0;
        await eachRun(blocks, start, async (kind, offset, length) => {
          hash.update(`${kind} ${offset} ${length} `);
          if (kind !== SAYS.data) return;
          const data = new Uint8Array(length);
          bytes += await file.read(data, offset);
          hash.update(data);
        });
        if (blocks.some((says) => says !== SAYS.nothing)) sums.push(hash.digest('hex'));
        if (bytesPerSecond !== undefined) await setTimeout((bytes / bytesPerSecond) * 1000);
        at = nextSaid(extents, start + WINDOW_BYTES);
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof StorageError) throw error;
    throw storageErrorOf('read layer', path, error);
  }
  return sums;
}

/** Removes a layer's checksums, durably: its file is about to change. */
export async function forgetSums(pool: Pool, id: string): Promise<void> {
  const path = sumPath(pool, id);
  if ((await pool.disk.stat(path)) === undefined) return;
  await pool.disk.remove(path);
  await pool.disk.syncDirectory(pool.paths.layers);
}

const sumPath = ({ paths }: Pool, id: string): string => paths.layerSums(id);
