import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs';
import { native } from '@cairn/native';
import { StorageError, storageErrorOf } from './storage-error.js';

const EWOULDBLOCK = 11;

/** A lock that holds until it is released, or every process that has the descriptor has ended, however they end. */
export interface PoolLock {
  readonly fd: number;
  release(): void;
}

/**
 * Locks a file for this process. Throws `pool-locked` with the other process's id when another data plane has it.
 */
export function lockPool(path: string): PoolLock {
  let fd: number;
  try {
    fd = openLock(path);
  } catch (error) {
    throw storageErrorOf('lock pool', path, error);
  }
  const result = native.lockExclusive(fd);
  if (result === 0) {
    noteOwner(fd);
    return { fd, release: () => closeSync(fd) };
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

/**
 * A lock that was taken before, by this process or by one that still has it, too. `fd` stays the caller's. Throws
 * `pool-locked` when it is not the lock of this pool.
 */
export function adoptPoolLock(path: string, fd: number): PoolLock {
  try {
    const [one, other] = [fstatSync(fd), statSync(path)];
    const isTheFile = one.dev === other.dev && one.ino === other.ino;
    // Granted again to whoever has it through this descriptor, refused to anybody else.
    if (!isTheFile || native.lockExclusive(fd) !== 0) {
      const reason = 'what was handed over is not the lock of this pool';
      throw new StorageError('pool-locked', { op: 'lock pool', path, reason });
    }
  } catch (error) {
    throw storageErrorOf('lock pool', path, error);
  }
  noteOwner(fd);
  return { fd, release: () => undefined };
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
