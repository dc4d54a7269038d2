import { AgentError, type AgentErrorCode } from '@cairn/agent';
import { StorageError, type StorageErrorKind } from '@cairn/storage';
import { StartRefused } from '../start-refused.js';

const verbCode = {
  'pool-not-writable': 'storage-failed',
  'pool-unsuitable': 'storage-failed',
  'pool-locked': 'storage-failed',
  'pool-full': 'pool-full',
  'volume-not-found': 'volume-not-found',
  'volume-size-mismatch': 'volume-size-mismatch',
  'volume-in-use': 'volume-exported',
  'volume-busy': 'volume-busy',
  'read-only': 'invalid-argument',
  'snapshot-not-found': 'snapshot-not-found',
  'snapshot-exists': 'snapshot-exists',
  'snapshots-unrelated': 'invalid-argument',
  'snapshot-busy': 'snapshot-busy',
  'checksum-mismatch': 'checksum-mismatch',
  'manifest-corrupt': 'storage-failed',
  io: 'storage-failed',
  'invalid-argument': 'invalid-argument',
} as const satisfies Record<StorageErrorKind, AgentErrorCode>;

const startRemedy = {
  'pool-not-writable': 'make CAIRN_POOL_DIR writable for the user that runs the data plane',
  'pool-unsuitable': 'point CAIRN_POOL_DIR to a file system with sparse files, such as ext4, xfs or btrfs',
  'pool-locked': 'stop the other data plane of this pool, or give this one its own CAIRN_POOL_DIR',
  'pool-full': 'free space on the file system of CAIRN_POOL_DIR, or point it to another one',
  'volume-not-found': 'put the file back from a backup, or delete the volume through the API',
  'volume-size-mismatch': 'put the file back from a backup',
  'volume-in-use': 'stop the process that has the volume open',
  'volume-busy': 'wait for the snapshot that is being taken',
  'read-only': 'attach the volume for writing',
  'snapshot-not-found': 'put the manifest back from a backup',
  'snapshot-exists': 'give the snapshot another id',
  'snapshots-unrelated': 'compare snapshots of one line',
  'snapshot-busy': 'wait for the completion of the snapshot',
  'checksum-mismatch': 'send the block again',
  'manifest-corrupt': 'put the manifest back from a backup',
  io: 'let CAIRN_POOL_DIR be a directory on a healthy local disk; the kernel log tells more',
  'invalid-argument': 'correct the setting that the reason names',
} as const satisfies Record<StorageErrorKind, string>;

/** The agent error that a failed verb answers; an error that is not the store's becomes `fallback`. */
export function agentErrorOf(error: unknown, fallback: AgentErrorCode): AgentError {
  if (error instanceof AgentError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof StorageError ? verbCode[error.kind] : fallback;
  return new AgentError(code, message, {}, { cause: error });
}

/** The refusal of a start for which the pool is to blame; any other error is returned as it is. */
export function startRefusalOf(error: unknown): unknown {
  if (!(error instanceof StorageError)) return error;
  const { op, path, reason } = error.details;
  const what = [`${error.kind}: ${op}`, path, reason === undefined ? undefined : `(${reason})`];
  const said = what.filter((part) => part !== undefined).join(' ');
  return new StartRefused(said, startRemedy[error.kind], { cause: error });
}
