import { spawnSync } from 'node:child_process';
import { scratchDirectory } from './back-end.js';

/** A file system of `sizeBytes` that can be filled up; the reason, when this machine does not let a test make one. */
export const mountSmallTmpfs = (sizeBytes: number): { path: string; unmount: () => void } | string => {
  const directory = scratchDirectory();
  const options = ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', directory.path];
  const mounted = spawnSync('mount', options, { encoding: 'utf8' });
  if (mounted.status !== 0) {
    directory.remove();
    return `no small file system can be mounted here: ${mounted.error?.message ?? mounted.stderr.trim()}`;
  }
  return {
    path: directory.path,
    unmount: () => {
      // Lazily: the kernel closes the files of a dead process's ring some time after its end.
      spawnSync('umount', ['-l', directory.path]);
      directory.remove();
    },
  };
};
