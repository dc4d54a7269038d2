import { cpus } from 'node:os';

/** The back-end has a core of its own, and so has whoever loads it. */
export const BACK_END_CORE = 0;
export const LOAD_CORE = 1;

/** A command line that runs on one core; its later threads do, too, but for the kernel's io_uring workers. */
export const pinnedTo = (core: number, command: readonly string[]): string[] => [
  'taskset',
  '-c',
  `${core}`,
  ...command,
];

/** Throws when there is not a core for each. */
export const requireCores = (): void => {
  if (cpus().length <= LOAD_CORE) throw new Error('a benchmark needs two cores: one for each side');
};
