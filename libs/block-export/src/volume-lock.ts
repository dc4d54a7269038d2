import { closeSync, constants, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { check, native } from '@cairn/native';

const EWOULDBLOCK = 11;
const RETRY_MS = 50;

/** How long a process that was just killed may take to let go of its files: the kernel ends its I/O first. */
const PATIENCE_MS = 3000;

/**
 * Keeps other processes from serving the same file for writing, until the returned function is called or this process
 * ends, however it ends. A pool has a lock of its own; this is for a file that is served by itself.
 *
 * Rejects with an Error that says so when another process has the file.
 */
export async function lockVolumeFile(path: string): Promise<() => void> {
  const fd = openSync(path, constants.O_RDONLY);
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const result = native.lockExclusive(fd);
    if (result === 0) return () => closeSync(fd);
    if (result !== -EWOULDBLOCK || performance.now() > deadline) {
      closeSync(fd);
      if (result !== -EWOULDBLOCK) check(`lock ${path}`, result);
      throw new Error(`another process serves ${path}; stop that one first, or serve it --read-only`);
    }
    await sleep(RETRY_MS);
  }
}
