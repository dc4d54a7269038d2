import { writeFileAtomic } from './atomic-file.js';
import type { Disk } from './disk.js';
import type { PoolAbilities } from './pool-probe.js';
import { makeId, POOL_ID } from './records.js';
import { StorageError } from './storage-error.js';

const VERSION = 2;
/** Of releases that know only ids of 16 digits; they would take what newer ids name for nobody's, so they must not open it. */
const FORMER_VERSION = 1;

/** What a pool is taken to be able to do when its file system is too full to be probed, and never was. */
const UNPROBED: PoolAbilities = {
  reflink: false,
  directMemoryAlignment: 0,
  directOffsetAlignment: 0,
  zeroMapOffsetBytes: 2 ** 41,
  fsync: 'as-told',
};

/**
 * The pool's id, made and written down when the pool is new, and what its file system can do: what was just found, else
 * what was written down.
 *
 * Rejects with `manifest-corrupt` when the file is not what this version writes.
 */
export async function openPoolFile(
  path: string,
  probed: PoolAbilities | undefined,
  disk: Disk,
): Promise<{ poolId: string; abilities: PoolAbilities }> {
  const known = await readPoolFile(path, disk);
  const poolId = known?.poolId ?? makeId('pool');
  const abilities = probed ?? known?.abilities ?? UNPROBED;
  const text = `${JSON.stringify({ version: VERSION, poolId, abilities })}\n`;
  if (text !== known?.text) {
    try {
      await writeFileAtomic(path, text, disk);
    } catch (error) {
      if (known === undefined || (error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    }
  }
  return { poolId, abilities };
}

/** What is written down of a pool; undefined when it is none. Rejects with `manifest-corrupt`. */
export async function readPoolFile(
  path: string,
  disk: Disk,
): Promise<{ poolId: string; abilities: PoolAbilities | undefined; text: string } | undefined> {
  if ((await disk.stat(path)) === undefined) return undefined;
  const text = await disk.readText(path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const { version, poolId, abilities } = (value ?? {}) as Record<string, unknown>;
  const isKnown = version === VERSION || version === FORMER_VERSION;
  if (!isKnown || typeof poolId !== 'string' || !POOL_ID.test(poolId)) {
    throw new StorageError('manifest-corrupt', {
      op: 'open pool',
      path,
      reason: 'it is not what this release knows',
      remedy: 'Put back the file from a backup, or give an empty directory',
    });
  }
  return { poolId, abilities: isAbilities(abilities) ? { ...UNPROBED, ...abilities } : undefined, text };
}

/** Older versions did not look at fsync. */
const isAbilities = (value: unknown): value is Omit<PoolAbilities, 'fsync'> & Partial<PoolAbilities> => {
  if (typeof value !== 'object' || value === null) return false;
  const { reflink, directMemoryAlignment, directOffsetAlignment, zeroMapOffsetBytes } =
    value as Partial<PoolAbilities>;
  return (
    typeof reflink === 'boolean' &&
    [directMemoryAlignment, directOffsetAlignment, zeroMapOffsetBytes].every(Number.isSafeInteger)
  );
};
