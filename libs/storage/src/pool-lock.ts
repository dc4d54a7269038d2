import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { native } from '@cairn/native';
import { StorageError, storageErrorOf } from './storage-error.js';

const EWOULDBLOCK = 11;

/**
 * Locks a file for this process, until the returned function is called or the process ends, however it ends.
 *
 * Throws `pool-locked` with the other process's id when another data plane has it.
 */
export function lockPool(path: string): () => void {
  let fd: number;
  try {
    fd = openLock(path);
  } catch (error) {
    throw storageErrorOf('lock pool', path, error);
  }
  const result = native.lockExclusive(fd);
  if (result === 0) {
    noteOwner(fd);
    return () => closeSync(fd);
  }
  closeSync(fd);
  if (result !== -EWOULDBLOCK)
    throw new StorageError('io', { op: 'lock pool', path, reason: `errno ${-result}` });
  const owner = readFileSync(path, 'utf8').trim() || 'unknown';
  throw new StorageError('pool-locked', {
    op: 'lock pool',
    path,
    reason: `another data plane (process ${owner}) uses it`,
    remedy: 'Stop that one, or give this one a pool directory of its own',
  });
}

/** On a file system that is mounted read-only, a lock that was made before serves as well. */
const openLock = (path: string): number => {
  try {
    return openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EROFS') throw error;
    return openSync(path, constants.O_RDONLY);
  }
};

/** Writes down who has the lock, for people; a full file system is no reason not to have it. */
const noteOwner = (fd: number): void => {
  try {
    ftruncateSync(fd);
    writeSync(fd, `${process.pid}\n`, 0);
  } catch {
    // The lock holds all the same.
  }
};
