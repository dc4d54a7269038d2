import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
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

/** A file system in a file, mounted: needs root, loop devices and the program that makes it. */
const loop = (name: string, mkfs: readonly string[]): PoolPlace => {
  const base = mkdtempSync(join(tmpdir(), 'cairn-loop-'));
  const image = join(base, 'image');
  const mount = mkdtempSync(join(base, 'mount-'));
  const place = {
    name,
    make: () => mkdtempSync(join(mount, 'pool-')),
    dispose: () => {
      try {
        execFileSync('umount', ['-l', mount], { stdio: 'pipe' });
      } catch {
        // It was not mounted.
      }
      rmSync(base, { recursive: true, force: true });
    },
  };
  try {
    writeFileSync(image, '');
    truncateSync(image, LOOP_BYTES);
    execFileSync(mkfs[0]!, [...mkfs.slice(1), image], { stdio: 'pipe' });
    execFileSync('mount', ['-o', 'loop', image, mount], { stdio: 'pipe' });
    return place;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0]! : String(error);
    process.stderr.write(`skipped: the store on ${name}: ${reason}\n`);
    place.dispose();
    return { ...place, skipped: reason };
  }
};

/** The file systems that a store is tried on. */
export const poolPlaces = (): PoolPlace[] => [
  existing('tmpfs', '/dev/shm'),
  existing('the temporary directory', tmpdir()),
  loop('xfs with reflink', ['mkfs.xfs', '-q', '-m', 'reflink=1']),
  loop('ext4 in a loop', ['mkfs.ext4', '-q']),
];
