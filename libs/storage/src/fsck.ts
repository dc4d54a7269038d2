import { resolve } from 'node:path';
import { SCRATCH_MARK } from './atomic-file.js';
import { type Disk, systemDisk } from './disk.js';
import { Pool } from './pool.js';
import { readPoolFile } from './pool-file.js';
import { lockPool } from './pool-lock.js';
import { PoolPaths } from './pool-paths.js';
import { LAYER_FILE, LAYER_ID, SNAPSHOT_ID, VOLUME_ID } from './records.js';
import { loadPool, recoverPool, removeScratch } from './recovery.js';
import { compareSums, type LayerDamage, scrubPool, type ScrubOptions, type ScrubReport } from './scrub.js';
import { StorageError, storageErrorOf } from './storage-error.js';

/**
 * What a check found. `damage` makes something unusable, and only a backup helps; `leftover` is what a crash leaves, and
 * `repair` or the next open removes it; `notice` is odd and harmless.
 */
export interface PoolFinding {
  severity: 'damage' | 'leftover' | 'notice';
  /** A file below the pool's directory, or the id of what is concerned. */
  where: string;
  what: string;
}

export interface PoolCheck {
  poolId: string;
  volumes: number;
  snapshots: number;
  layers: number;
  findings: PoolFinding[];
  /** Leftovers were removed. */
  repaired: boolean;
}

export interface CheckPoolOptions {
  /** Removes leftovers, unless there is damage: what seems to be nobody's may be what is missed. */
  repair?: boolean;
  /** Reads every layer that has checksums, and compares. */
  scrub?: boolean;
  disk?: Disk;
}

/**
 * Checks a pool that no data plane uses: manifests, chains, sizes, and what belongs to nobody. Changes nothing unless it
 * is asked to repair.
 *
 * Rejects with `pool-locked` while the pool is used, and `manifest-corrupt` when it is no pool.
 */
export async function checkPool(directory: string, options: CheckPoolOptions = {}): Promise<PoolCheck> {
  return visitPool('check pool', directory, options.disk, async (pool) => {
    const findings = [...damageOf(pool), ...(await leftoversOf(pool)), ...(await filesOf(pool))];
    if (options.scrub) findings.push(...(await compareSums(pool)).map(findingOf));
    const damaged = findings.some(({ severity }) => severity === 'damage');
    const repaired = options.repair === true && !damaged;
    const { graph } = pool;
    const counts = { volumes: graph.volumes.size, snapshots: graph.snapshots.size, layers: graph.layerCount };
    if (repaired) {
      await removeScratch(pool);
      await recoverPool(pool);
    }
    return { poolId: pool.poolId, ...counts, findings, repaired };
  });
}

/** Scrubs a pool that no data plane uses, as `VolumeStore.scrub` does; nothing but checksums is written. Rejects as `checkPool`. */
export function scrubPoolAt(
  directory: string,
  options: ScrubOptions & { disk?: Disk } = {},
): Promise<ScrubReport> {
  return visitPool('scrub pool', directory, options.disk, (pool) => scrubPool(pool, options));
}

/** Opens a pool that no data plane uses, as it lies there, for as long as something runs with it. */
async function visitPool<T>(
  op: string,
  directory: string,
  disk: Disk = systemDisk,
  work: (pool: Pool) => Promise<T>,
): Promise<T> {
  const paths = new PoolPaths(resolve(directory));
  const identity = await readPoolFile(paths.pool, disk).catch((error: unknown) => {
    throw storageErrorOf(op, paths.pool, error);
  });
  if (!identity) {
    throw new StorageError('manifest-corrupt', {
      op,
      path: paths.directory,
      reason: 'there is no pool',
      remedy: 'Name the directory that has pool.json',
    });
  }
  const lock = lockPool(paths.lock);
  try {
    const { poolId } = identity;
    const pool = new Pool({ paths, poolId, disk, overcommitRatio: 1, zeroMapOffsetBytes: 0 });
    await loadPool(pool, { upgrade: false });
    return await work(pool);
  } catch (error) {
    throw storageErrorOf(op, paths.directory, error);
  } finally {
    lock.release();
  }
}

function damageOf({ broken, graph }: Pool): PoolFinding[] {
  const findings: PoolFinding[] = [];
  for (const [where, { message }] of broken) findings.push({ severity: 'damage', where, what: message });
  const owners = new Map<string, string>();
  for (const { id, file, parent, sizeBytes } of graph.listLayers()) {
    const needed = graph.isNamed(id) || graph.childrenOf(id).length > 0;
    const other = owners.get(file);
    if (needed && other !== undefined)
      findings.push({ severity: 'damage', where: id, what: `it has the same file as ${other}` });
    if (needed) owners.set(file, id);
    const below = parent === null ? undefined : graph.findLayer(parent);
    if (below && below.sizeBytes > sizeBytes)
      findings.push({ severity: 'damage', where: id, what: `it is smaller than its parent ${below.id}` });
    if (parent !== null && !below && !broken.has(id))
      findings.push({ severity: 'damage', where: id, what: `its parent ${parent} is missing` });
  }
  return findings;
}

async function leftoversOf({ graph }: Pool): Promise<PoolFinding[]> {
  const findings: PoolFinding[] = [];
  for (const { id, state, internal } of graph.snapshots.values()) {
    if (state === 'pending' || internal)
      findings.push({ severity: 'leftover', where: id, what: 'a snapshot that was not finished' });
  }
  for (const { id } of graph.listGarbage())
    findings.push({ severity: 'leftover', where: id, what: 'a layer that nobody needs' });
  for (const { layer, child } of graph.listFoldable())
    findings.push({ severity: 'notice', where: layer.id, what: `only ${child.id} needs it: to be folded` });
  return findings;
}

/** Files that are nothing of a pool's, or of nobody in it. */
async function filesOf({ disk, paths, graph }: Pool): Promise<PoolFinding[]> {
  const findings: PoolFinding[] = [];
  const files = new Set(graph.listLayers().map(({ file }) => file));
  const known: [folder: string, name: string, isKnown: (name: string) => boolean][] = [
    [paths.directory, '', (name) => ['pool.json', 'lock', 'volumes', 'snapshots', 'layers'].includes(name)],
    [paths.volumes, 'volumes/', (name) => VOLUME_ID.test(name.replace(/\.json$/, ''))],
    [paths.snapshots, 'snapshots/', (name) => SNAPSHOT_ID.test(name.replace(/\.json$/, ''))],
    [
      paths.layers,
      'layers/',
      (name) => LAYER_FILE.test(name) || LAYER_ID.test(name.replace(/\.(json|sum)$/, '')),
    ],
  ];
  for (const [folder, prefix, isKnown] of known) {
    for (const name of await disk.list(folder)) {
      const where = `${prefix}${name}`;
      if (name.includes(SCRATCH_MARK)) {
        findings.push({ severity: 'leftover', where, what: 'a file that was not finished' });
      } else if (folder === paths.layers && LAYER_FILE.test(name) && !files.has(name)) {
        findings.push({ severity: 'leftover', where, what: 'a file that no layer has' });
      } else if (!isKnown(name)) {
        findings.push({ severity: 'notice', where, what: 'a file that is not the store’s' });
      }
    }
  }
  return findings;
}

const findingOf = ({ layer, what, readBy }: LayerDamage): PoolFinding => ({
  severity: 'damage',
  where: layer,
  what: `${what}; read by ${readBy.join(', ') || 'nobody'}`,
});

/** Where a check's findings are, as lines for people. */
export const describeFinding = ({ severity, where, what }: PoolFinding): string =>
  `${severity}: ${where}: ${what}`;
