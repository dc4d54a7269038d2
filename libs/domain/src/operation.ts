import type { Reason } from './errors.js';
import type { AttachmentId, GroupId, OperationId, ProjectId, SnapshotId, VolumeId } from './ids.js';
import type { TransitionTable } from './state-machine.js';
import type { VolumeSource } from './volume.js';

export const operationKinds = [
  'create-volume',
  'delete-volume',
  'attach-volume',
  'detach-volume',
  'resize-volume',
  'revert-volume',
  'create-snapshot',
  'start-snapshot',
  'complete-snapshot',
  'delete-snapshot',
] as const;
export type OperationKind = (typeof operationKinds)[number];
export const operationStates = ['pending', 'running', 'succeeded', 'failed'] as const;
export type OperationState = (typeof operationStates)[number];
export const operationEvents = ['claim', 'retry', 'succeed', 'fail'] as const;
export type OperationEvent = (typeof operationEvents)[number];

/**
 * Operation lifecycle. A pair that is not listed is illegal.
 *
 * `running` accepts `claim` because a lease can expire under a worker that died.
 */
export const operationTransitions: TransitionTable<OperationState, OperationEvent> = {
  pending: { claim: 'running' },
  running: { claim: 'running', retry: 'pending', succeed: 'succeeded', fail: 'failed' },
  succeeded: {},
  failed: {},
};

/** What each kind of operation was asked to do. */
export interface OperationParams {
  'create-volume': { sizeBytes: number; source?: VolumeSource };
  'delete-volume': Record<string, never>;
  'attach-volume': { generation: number; readOnly: boolean; numQueues: number };
  'detach-volume': { generation: number; force: boolean };
  'resize-volume': { sizeBytes: number };
  'revert-volume': { generation: number };
  /** Several are a group: of one point in time, and all or none. */
  'create-snapshot': { snapshotIds: readonly SnapshotId[] };
  /** Begins one that is written from blocks; what is not put is as in the parent. */
  'start-snapshot': { timeoutMinutes: number; parentSnapshotId?: SnapshotId };
  /** `checksum`: SHA-256, in Base64, of the SHA-256 of each block that was put, in the order of their indices. */
  'complete-snapshot': { changedBlocks: number; checksum?: string };
  'delete-snapshot': Record<string, never>;
}

/** What an operation acts on. */
export interface OperationTarget {
  volumeId?: VolumeId;
  attachmentId?: AttachmentId;
  snapshotId?: SnapshotId;
  groupId?: GroupId;
}

/** The parts of the target that each kind is sure to name. */
interface NamedTargets {
  'create-volume': 'volumeId';
  'delete-volume': 'volumeId';
  'attach-volume': 'volumeId' | 'attachmentId';
  'detach-volume': 'volumeId' | 'attachmentId';
  'resize-volume': 'volumeId';
  'revert-volume': 'volumeId' | 'snapshotId';
  'create-snapshot': never;
  'start-snapshot': 'snapshotId';
  'complete-snapshot': 'snapshotId';
  'delete-snapshot': 'snapshotId';
}

type TargetOf<K extends OperationKind> = OperationTarget & Required<Pick<OperationTarget, NamedTargets[K]>>;

interface OperationOf<K extends OperationKind> {
  id: OperationId;
  projectId: ProjectId;
  kind: K;
  params: OperationParams[K];
  target: TargetOf<K>;
  state: OperationState;
  /** 0 to 100. */
  progress: number;
  /** How often a worker has begun it. */
  attempts: number;
  clientToken?: string;
  /** Digest of what the caller asked for, to tell a repeated request from a different one under the same token. */
  requestDigest: string;
  /** The final error of a failed operation, or the latest one of an operation that is being retried. */
  error?: Reason;
  deadline: Date;
  /** A retry is not due before this. */
  notBefore: Date;
  workerId?: string;
  leaseUntil?: Date;
  createdAt: Date;
  updatedAt: Date;
  finishedAt?: Date;
}

/** One mutation on its way; a union by kind, so that `params` narrows with `kind`. */
export type Operation = { [K in OperationKind]: OperationOf<K> }[OperationKind];

/** What the control plane writes down before anything happens. */
export type OperationIntent = {
  [K in OperationKind]: Pick<
    OperationOf<K>,
    'projectId' | 'kind' | 'params' | 'target' | 'clientToken' | 'requestDigest'
  >;
}[OperationKind];

/** How long each kind may take, retries included, before it fails with `deadline-exceeded`. */
export const operationDeadlineMs = {
  'create-volume': 2 * 60_000,
  'delete-volume': 10 * 60_000,
  'attach-volume': 2 * 60_000,
  'detach-volume': 5 * 60_000,
  'resize-volume': 2 * 60_000,
  'revert-volume': 2 * 60_000,
  'create-snapshot': 2 * 60_000,
  'start-snapshot': 2 * 60_000,
  // All that was put is read once more.
  'complete-snapshot': 4 * 3600_000,
  'delete-snapshot': 10 * 60_000,
} as const satisfies Record<OperationKind, number>;

const BACKOFF_FIRST_MS = 250;
const BACKOFF_LAST_MS = 15_000;

/** How long to wait before the next try, by how many have been made: 250 ms doubling up to 15 s. */
export function operationBackoffMs(attempts: number): number {
  return Math.min(BACKOFF_FIRST_MS * 2 ** Math.max(0, attempts - 1), BACKOFF_LAST_MS);
}

/** The narrowest thing that the operation acts on, for a log line. */
export function targetName({ target }: Pick<Operation, 'target'>): string {
  return target.snapshotId ?? target.groupId ?? target.volumeId ?? 'nothing';
}

/** True when the operation has ended. */
export function isFinished(state: OperationState): boolean {
  return state === 'succeeded' || state === 'failed';
}
