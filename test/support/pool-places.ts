import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A directory on a file system of some kind, or the reason why there is none. */
export interface PoolPlace {
  name: string;
  skipped?: string;
  /** A fresh directory there. */
  make(): string;
  dispose(): void;
}

const LOOP_BYTES = 512 * 2 ** 20;

const existing = (name: string, parent: string): PoolPlace => {
  const made: string[] = [];
  return {
    name,
    ...(existsSync(parent) ? {} : { skipped: `there is no ${parent}` }),
    make: () => {
      made.push(mkdtempSync(join(parent, 'cairn-store-')));
      return made.at(-1)!;
    },
    dispose: () => made.forEach((path) => rmSync(path, { recursive: true, force: true })),
  };
};

/**
 * A file system in a file, mounted when it is first asked for: needs root, loop devices and the program that makes it.
 * Tried at once, so that the tests on it can be skipped with the reason; nothing is left mounted until a test wants it.
 */
const loop = (name: string, mkfs: readonly string[]): PoolPlace => {
  let base: string | undefined;
  const mountOf = (path: string): string => join(path, 'mount');
  const dispose = (): void => {
    if (base === undefined) return;
    spawnSync('umount', ['-l', mountOf(base)], { stdio: 'pipe' });
    rmSync(base, { recursive: true, force: true });
    base = undefined;
  };
  const mount = (): string => {
    if (base === undefined) {
      base = mkdtempSync(join(tmpdir(), 'cairn-loop-'));
      const image = join(base, 'image');
      mkdirSync(mountOf(base));
      writeFileSync(image, '');
      truncateSync(image, LOOP_BYTES);
      execFileSync(mkfs[0]!, [...mkfs.slice(1), image], { stdio: 'pipe' });
      execFileSync('mount', ['-o', 'loop', image, mountOf(base)], { stdio: 'pipe' });
    }
    return mountOf(base);
  };
  const place = { name, make: () => mkdtempSync(join(mount(), 'pool-')), dispose };
  try {
    mount();
    return place;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0]! : String(error);
    process.stderr.write(`skipped: the store on ${name}: ${reason}\n`);
    return { ...place, skipped: reason };
  } finally {
    dispose();
  }
};

/** The file systems that a store is tried on. */
export const poolPlaces = (): PoolPlace[] => [
  existing('tmpfs', '/dev/shm'),
  existing('the temporary directory', tmpdir()),
  loop('xfs with reflink', ['mkfs.xfs', '-q', '-m', 'reflink=1']),
  loop('ext4 in a loop', ['mkfs.ext4', '-q']),
];
