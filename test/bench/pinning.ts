import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { cpus } from 'node:os';
import { basename } from 'node:path';

/** Which core runs whom: the back-end has one of its own, and so has whoever loads it. */
export interface Cores {
  backEnd: number;
  load: number;
}

/** A command line that runs on one core; its later threads do, too, but for the kernel's io_uring workers. */
export const pinnedTo = (core: number, command: readonly string[]): string[] => [
  'taskset',
  '-c',
  `${core}`,
  ...command,
];

/**
 * Chooses the cores 0 and 1. The back-end gets the one that takes the interrupts of the disk below `directory`: a
 * driver that spins would hold up what the kernel does after an interrupt, and that for every back-end.
 *
 * Throws when there is not a core for each.
 */
export const chooseCores = (directory: string): Cores => {
  if (cpus().length < 2) throw new Error('a benchmark needs two cores: one for each side');
  const [first, second] = interruptsOf(diskOf(directory));
  return second > first ? { backEnd: 1, load: 0 } : { backEnd: 0, load: 1 };
};

/** The driver's name of the disk (`virtio1`, `nvme0`), as in /proc/interrupts; undefined where there is none. */
const diskOf = (directory: string): string | undefined => {
  const { dev } = statSync(directory);
  // makedev(3): the numbers of the device that the file system is on, of which a partition's name begins with the disk's.
  const number = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`;
  const disks = readdirSync('/sys/block');
  const own = disks.find((disk) =>
    [`/sys/block/${disk}`, ...partitionsOf(disk)].some((path) => numberOf(path) === number),
  );
  return own && linkName(`/sys/block/${own}/device`);
};

const partitionsOf = (disk: string): string[] =>
  readdirSync(`/sys/block/${disk}`)
    .filter((name) => name.startsWith(disk))
    .map((name) => `/sys/block/${disk}/${name}`);

const numberOf = (path: string): string => {
  try {
    return readFileSync(`${path}/dev`, 'utf8').trim();
  } catch {
    return '';
  }
};

const linkName = (path: string): string | undefined => {
  try {
    return basename(readlinkSync(path));
  } catch {
    return undefined;
  }
};

/** How often cores 0 and 1 were interrupted by a disk. */
const interruptsOf = (disk: string | undefined): [number, number] => {
  const counts: [number, number] = [0, 0];
  if (disk === undefined) return counts;
  for (const line of readFileSync('/proc/interrupts', 'utf8').split('\n')) {
    const words = line.trim().split(/\s+/);
    if (!words.at(-1)?.startsWith(disk)) continue;
    counts[0] += Number(words[1]);
    counts[1] += Number(words[2]);
  }
  return counts;
};
