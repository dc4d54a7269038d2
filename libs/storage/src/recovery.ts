import { join } from 'node:path';
import { SCRATCH_MARK } from './atomic-file.js';
import { manifestRefused, Refusal } from './manifest.js';
import type { Pool } from './pool.js';
import {
  LAYER_FILE,
  LAYER_ID,
  type LayerRecord,
  SNAPSHOT_ID,
  unsealLayer,
  unsealSnapshot,
  unsealVolume,
  VOLUME_ID,
  type VolumeManifest,
} from './records.js';
import { StorageError, storageErrorOf } from './storage-error.js';

// Every state that a crash can leave is legal; what is left to do is to forget what was not finished:
//
// - a snapshot that is `pending` is removed, unless another of its group is completed: then every head of the group
//   had been switched, and it is completed, too;
// - a snapshot that another verb made for itself is removed;
// - then layers that nobody names, and files that no layer names.
//
// Nothing is removed while anything is not understood: it may need what seems to be nobody's.

/** Removes what atomic writes and probes left unfinished when a process died. */
export async function removeScratch({ disk, paths }: Pick<Pool, 'disk' | 'paths'>): Promise<void> {
  for (const folder of [paths.directory, paths.volumes, paths.snapshots, paths.layers]) {
    for (const name of await disk.list(folder)) {
      if (name.includes(SCRATCH_MARK)) await disk.remove(join(folder, name));
    }
  }
}

/** Reads what is in the pool. What is not understood, and what depends on it, is in `pool.broken` then. */
export async function loadPool(pool: Pool, { upgrade = true } = {}): Promise<void> {
  const { graph, paths } = pool;
  const first: VolumeManifest[] = [];
  await readAll(pool, paths.layers, LAYER_ID, async (text, id) => graph.putLayer(unsealLayer(text, id)));
  await readAll(pool, paths.volumes, VOLUME_ID, async (text, id) => {
    const { volume, upgraded } = unsealVolume(text, id);
    if (upgraded) first.push(volume);
    graph.volumes.set(id, volume);
  });
  await readAll(pool, paths.snapshots, SNAPSHOT_ID, async (text, id) => {
    graph.snapshots.set(id, unsealSnapshot(text, id));
  });
  for (const volume of first) await upgradeVolume(pool, volume, upgrade);
  // A layer that nobody needs may be without its file: a crash can keep the name of one and not of the other.
  for (const layer of neededLayers(pool)) await guard(pool, layer.id, () => checkFile(pool, layer));
  for (const [id, volume] of [...graph.volumes]) {
    const sound = await guard(pool, id, async () => checkChain(pool, volume.headLayer, volume.sizeBytes));
    if (!sound) graph.volumes.delete(id);
  }
  for (const [id, snapshot] of [...graph.snapshots]) {
    const sound = await guard(pool, id, async () => checkChain(pool, snapshot.layer, snapshot.sizeBytes));
    if (!sound) graph.snapshots.delete(id);
  }
  await checkHeads(pool);
}

/** Finishes or forgets what a crash interrupted. */
export async function recoverPool(pool: Pool): Promise<void> {
  const snapshots = [...pool.graph.snapshots.values()];
  const groups = new Set(
    snapshots.flatMap(({ state, group }) => (state === 'completed' && group ? [group] : [])),
  );
  for (const snapshot of snapshots) {
    if (snapshot.state === 'pending' && snapshot.group !== null && groups.has(snapshot.group)) {
      await pool.writeSnapshot({ ...snapshot, state: 'completed' });
    } else if (snapshot.state === 'pending' || snapshot.internal) {
      await pool.removeSnapshot(snapshot.id);
    }
  }
  await pool.collect();
  if (pool.broken.size > 0) return;
  const named = new Set(pool.graph.listLayers().map(({ file }) => file));
  for (const name of await pool.disk.list(pool.paths.layers)) {
    if (LAYER_FILE.test(name) && !named.has(name)) await pool.disk.remove(pool.paths.layerFile(name));
  }
}

/** Gives the layer of a volume of the first version its manifest, then the volume its present form. */
async function upgradeVolume(pool: Pool, volume: VolumeManifest, write: boolean): Promise<void> {
  const { headLayer: id, sizeBytes, createdAt } = volume;
  const layer: LayerRecord = {
    id,
    file: `${id}.img`,
    parent: null,
    sizeBytes,
    zeroMapOffsetBytes: null,
    createdAt,
  };
  if (pool.graph.findLayer(id) === undefined) pool.graph.putLayer(layer);
  if (!write) return;
  // A volume that is not sound is not written anew: the check that follows refuses it with the reason.
  if ((await pool.disk.stat(pool.paths.layerFile(layer.file)))?.sizeBytes !== sizeBytes) return;
  try {
    await pool.writeLayer(layer);
    await pool.writeVolume(volume);
  } catch (error) {
    // A full pool opens all the same. The layer is written before the first that has it as its parent.
    if (!(error instanceof StorageError && error.kind === 'pool-full')) throw error;
    pool.unwritten.add(id);
  }
}

async function readAll(
  pool: Pool,
  folder: string,
  pattern: RegExp,
  take: (text: string, id: string) => Promise<void>,
): Promise<void> {
  for (const name of await pool.disk.list(folder)) {
    const id = name.replace(/\.json$/, '');
    if (!name.endsWith('.json') || !pattern.test(id)) continue;
    const path = join(folder, name);
    await guard(pool, id, async () => {
      try {
        await take(await pool.disk.readText(path), id);
      } catch (error) {
        if (error instanceof Refusal) throw manifestRefused(path, error.message);
        throw storageErrorOf('read manifest', path, error);
      }
    });
  }
}

/** Runs a check; what it refuses is noted, and false returned. */
async function guard({ broken }: Pool, id: string, check: () => Promise<void>): Promise<boolean> {
  try {
    await check();
    return true;
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    broken.set(id, error);
    return false;
  }
}

/** The layers that volumes and snapshots are made of, as far as they are there. */
function neededLayers({ graph }: Pool): Set<LayerRecord> {
  const needed = new Set<LayerRecord>();
  const heads = [...graph.volumes.values()].map(({ headLayer }) => headLayer);
  for (const head of [...heads, ...[...graph.snapshots.values()].map(({ layer }) => layer)]) {
    let layer = graph.findLayer(head);
    while (layer && !needed.has(layer)) {
      needed.add(layer);
      layer = layer.parent === null ? undefined : graph.findLayer(layer.parent);
    }
  }
  return needed;
}

/** Refuses volumes whose head something else is made of, too: a write to it would change that. */
async function checkHeads(pool: Pool): Promise<void> {
  const { graph } = pool;
  const users = new Map<string, string[]>();
  const use = (layer: string, by: string): void => void users.set(layer, [...(users.get(layer) ?? []), by]);
  for (const { id, parent } of neededLayers(pool)) if (parent !== null) use(parent, id);
  for (const { id, headLayer } of graph.volumes.values()) use(headLayer, id);
  // One that is pending may name what is the head still.
  for (const { id, layer, state } of graph.snapshots.values()) if (state !== 'pending') use(layer, id);
  for (const [id, { headLayer }] of [...graph.volumes]) {
    const others = users.get(headLayer)!.filter((other) => other !== id);
    const sound = await guard(pool, id, async () => {
      if (others.length === 0) return;
      throw new StorageError('manifest-corrupt', {
        op: 'check volume',
        path: pool.paths.volume(id),
        reason: `its head ${headLayer} is part of ${others.join(', ')}, too: the manifest is an old one`,
        remedy: 'Put back the newest manifest from a backup; the layers were left alone',
      });
    });
    if (!sound) graph.volumes.delete(id);
  }
}

async function checkFile({ disk, paths }: Pool, layer: LayerRecord): Promise<void> {
  const path = paths.layerFile(layer.file);
  const found = await disk.stat(path).catch((error: unknown) => {
    throw storageErrorOf('check layer', path, error);
  });
  if (found && found.sizeBytes >= layer.sizeBytes) return;
  const reason = found ? `it has ${found.sizeBytes} bytes, not ${layer.sizeBytes}` : 'the layer is missing';
  const remedy = 'Put back the layer from a backup';
  throw new StorageError('manifest-corrupt', { op: 'check layer', path, reason, remedy });
}

/** Throws when a layer of the chain is not sound, or when they do not fit each other. */
function checkChain({ graph, broken }: Pool, headLayer: string, sizeBytes: number): void {
  for (let id: string | null = headLayer, seen = new Set<string>(); id !== null;) {
    const error = broken.get(id);
    if (error) throw error;
    if (seen.has(id)) break;
    seen.add(id);
    id = graph.findLayer(id)?.parent ?? null;
  }
  const head = graph.chainOf(headLayer).at(-1)!;
  if (head.sizeBytes >= sizeBytes) return;
  const reason = `layer ${headLayer} has ${head.sizeBytes} bytes, not ${sizeBytes}`;
  throw new StorageError('manifest-corrupt', { op: 'check layer', reason });
}
