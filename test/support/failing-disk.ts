import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { mountSmallTmpfs } from './small-tmpfs.js';

const MIB = 2 ** 20;

/**
 * An ext4 that believes it has 32 MiB, on a disk that has room for 3: what is written beyond fails when it is made
 * durable, and not before. The reason, when this machine does not let a test make one.
 */
export const mountFailingDisk = (): { path: string; unmount: () => void } | string => {
  const room = mountSmallTmpfs(3 * MIB);
  if (typeof room === 'string') return room;
  const image = join(room.path, 'image');
  const path = join(room.path, 'mount');
  const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };
  try {
    mkdirSync(path);
    const fd = openSync(image, 'w');
    ftruncateSync(fd, 32 * MIB);
    closeSync(fd);
    execFileSync('mkfs.ext4', ['-q', '-m', '0', '-N', '64', '-O', '^has_journal', image], {
      stdio: 'pipe',
      env,
    });
    execFileSync('mount', ['-o', 'loop', image, path], { stdio: 'pipe' });
  } catch (error) {
    room.unmount();
    return `no file system on a file can be mounted here: ${error instanceof Error ? error.message : String(error)}`;
  }
  return {
    path,
    unmount: () => {
      execFileSync('umount', [path], { stdio: 'pipe' });
      room.unmount();
    },
  };
};
