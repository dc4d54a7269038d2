import { UncertainReplacement } from './atomic-file.js';

/** What went wrong with bytes at rest. */
export type StorageErrorKind =
  | 'pool-not-writable'
  | 'pool-unsuitable'
  | 'pool-locked'
  | 'pool-full'
  | 'volume-not-found'
  | 'volume-size-mismatch'
  | 'volume-in-use'
  | 'volume-busy'
  | 'read-only'
  | 'snapshot-not-found'
  | 'snapshot-exists'
  | 'snapshot-busy'
  | 'snapshots-unrelated'
  | 'checksum-mismatch'
  | 'manifest-corrupt'
  | 'invalid-argument'
  | 'io';

export interface StorageErrorDetails {
  op: string;
  path?: string;
  offsetBytes?: number;
  /** What is wrong, in a few words. */
  reason?: string;
  /** What to do about it, as a sentence. */
  remedy?: string;
}

/** A failure of the volume store; `kind` decides what follows, the message is for people. */
export class StorageError extends Error {
  constructor(
    readonly kind: StorageErrorKind,
    readonly details: StorageErrorDetails,
    options?: ErrorOptions,
  ) {
    const where = details.path === undefined ? '' : ` ${details.path}`;
    const why = details.reason === undefined ? '' : `: ${details.reason}`;
    const remedy = details.remedy === undefined ? '' : `. ${details.remedy}`;
    super(`${kind}: ${details.op}${where}${why}${remedy}`, options);
    this.name = 'StorageError';
  }
}

/** Turns a failed file operation into a StorageError: no space → pool-full, no right → pool-not-writable, else io. */
export const storageErrorOf = (op: string, path: string, cause: unknown): StorageError => {
  if (cause instanceof StorageError) return cause;
  const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
  const details = { op, path, reason: code };
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new StorageError('pool-full', { ...details, remedy: 'Free some space or add a pool' }, { cause });
  }
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    const remedy = 'Give the data plane a directory that it may write to';
    return new StorageError('pool-not-writable', { ...details, remedy }, { cause });
  }
  if (code === 'EFBIG') {
    const remedy = 'The file system takes no file of that size: ask for less, or use XFS';
    return new StorageError('invalid-argument', { ...details, remedy }, { cause });
  }
  return new StorageError('io', details, { cause });
};

/** Was a manifest's replacement refused so late that it is not known which one is there? */
export const isUncertain = (error: unknown): boolean =>
  error instanceof StorageError && error.cause instanceof UncertainReplacement;
