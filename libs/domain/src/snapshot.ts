import { DomainError, type Reason } from './errors.js';
import type { GroupId, NodeId, PoolId, ProjectId, SnapshotId, VolumeId } from './ids.js';
import type { SpaceUsage } from './space-usage.js';
import { next, statesAllowing, type TransitionTable } from './state-machine.js';

export const snapshotStates = ['pending', 'completed', 'deleting', 'deleted', 'error'] as const;
export type SnapshotState = (typeof snapshotStates)[number];
export const snapshotEvents = [
  'completed',
  'failed',
  'cancel',
  'delete',
  'removed',
  'lost',
  'found',
] as const;
export type SnapshotEvent = (typeof snapshotEvents)[number];

/**
 * Snapshot lifecycle. A pair that is not listed is illegal.
 *
 * `lost` is a completed snapshot that its node has no more; `found` is one that the node has again, as when somebody
 * put its manifest back. `cancel` is only for one that is written from blocks.
 */
export const snapshotTransitions: TransitionTable<SnapshotState, SnapshotEvent> = {
  pending: { completed: 'completed', failed: 'error', cancel: 'deleting' },
  completed: { delete: 'deleting', lost: 'error' },
  deleting: { removed: 'deleted', failed: 'error' },
  error: { delete: 'deleting', found: 'completed' },
  deleted: {},
};

export const writingStates = ['starting', 'open', 'completing'] as const;
export type WritingState = (typeof writingStates)[number];
export const writingEvents = ['started', 'complete', 'refused'] as const;
export type WritingEvent = (typeof writingEvents)[number];

/**
 * What a pending snapshot that is written from blocks is in; blocks are put while it is `open`. A pair that is not listed
 * is illegal. It ends when the snapshot leaves `pending`.
 */
export const writingTransitions: TransitionTable<WritingState, WritingEvent> = {
  starting: { started: 'open' },
  open: { complete: 'completing' },
  completing: { refused: 'open' },
};

/** Words of the caller's on a record, by key. */
export type Tags = Readonly<Record<string, string>>;

/** What a volume was at one point in time, as the control world knows it. */
export interface Snapshot {
  id: SnapshotId;
  projectId: ProjectId;
  /** The volume it was taken of, which may be gone; unset when it was written from blocks. */
  volumeId?: VolumeId;
  /** Of one that was written from blocks: what it began as, which may be gone. */
  parentSnapshotId?: SnapshotId;
  /** Set while it is written from blocks. */
  writing?: WritingState;
  /** Percent, as whoever puts its blocks says. */
  progress?: number;
  /** What was taken at the same moment has the same group. */
  groupId?: GroupId;
  name?: string;
  description: string;
  tags: Tags;
  sizeBytes: number;
  state: SnapshotState;
  /** Why it is in `error`. */
  reason?: Reason;
  /** Set together; unset until it has a place, which one of a volume has from the start. */
  nodeId?: NodeId;
  poolId?: PoolId;
  usage?: SpaceUsage;
  createdAt: Date;
  updatedAt: Date;
  completedAt?: Date;
  deletedAt?: Date;
}

export const SNAPSHOT_DESCRIPTION_MAX = 1024;
/** As many as EC2 allows, and as long (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html). */
export const TAGS_MAX = 50;
export const TAG_KEY_MAX = 128;
export const TAG_VALUE_MAX = 256;
/** Volumes that stand still together; each one more makes the pause of all longer. */
export const SNAPSHOT_GROUP_MAX = 64;

/** As EBS has it (StartSnapshot): nothing put for so many minutes cancels a snapshot that is written from blocks. */
export const WRITING_TIMEOUT_MINUTES = { min: 10, max: 4320, fallback: 60 } as const;

/** The unit in which snapshots are read and written from outside: that of the EBS direct APIs. */
export const SNAPSHOT_BLOCK_BYTES = 512 * 1024;

/** A SHA-256 in Base64. */
export const SHA256_BASE64 = /^[A-Za-z0-9+/]{43}=$/;

/** How long a deleted snapshot can still be read by id. Lists leave it out at once. */
export const DELETED_SNAPSHOT_RETENTION_MS = 60 * 60 * 1000;

/** Throws `snapshot-wrong-state` unless its bytes can be read. */
export function requireCompleted(snapshot: Pick<Snapshot, 'id' | 'state'>): void {
  if (snapshot.state !== 'completed') throw wrongState(snapshot, ['completed']);
}

/** Where the snapshot's bytes are. Throws `snapshot-busy` for one that has no place yet. */
export function requirePlaced({ id, nodeId, poolId }: Pick<Snapshot, 'id' | 'nodeId' | 'poolId'>): {
  nodeId: NodeId;
  poolId: PoolId;
} {
  if (nodeId !== undefined && poolId !== undefined) return { nodeId, poolId };
  throw new DomainError('snapshot-busy', { message: `Snapshot ${id} has no place yet.` });
}

/**
 * Throws `snapshot-wrong-state` unless it is being written from blocks, and `snapshot-busy` unless that is in this state.
 */
export function requireWriting(
  snapshot: Pick<Snapshot, 'id' | 'state' | 'writing'>,
  writing: WritingState,
): void {
  if (snapshot.state !== 'pending' || snapshot.writing === undefined) throw wrongState(snapshot, ['pending']);
  if (snapshot.writing !== writing) throw busy(snapshot);
}

/** What the writing of the snapshot comes to after the event. Throws as `requireWriting`. */
export function nextWritingState(
  snapshot: Pick<Snapshot, 'id' | 'state' | 'writing'>,
  event: WritingEvent,
): WritingState {
  if (snapshot.state !== 'pending' || snapshot.writing === undefined) throw wrongState(snapshot, ['pending']);
  const to = next(writingTransitions, snapshot.writing, event);
  if (to !== undefined) return to;
  throw busy(snapshot);
}

const writingWords = {
  starting: 'is being started',
  open: 'is open for blocks',
  completing: 'is being completed',
} as const satisfies Record<WritingState, string>;

function busy({ id, writing = 'starting' }: Pick<Snapshot, 'id' | 'writing'>): DomainError {
  return new DomainError('snapshot-busy', {
    message: `Snapshot ${id} ${writingWords[writing]}.`,
    // Only what is open stays so by itself.
    retryable: writing !== 'open',
  });
}

/** The snapshot's state after the event. Throws `snapshot-wrong-state` with the current and the allowed states. */
export function nextSnapshotState(
  snapshot: Pick<Snapshot, 'id' | 'state'>,
  event: SnapshotEvent,
): SnapshotState {
  const to = next(snapshotTransitions, snapshot.state, event);
  if (to !== undefined) return to;
  throw wrongState(snapshot, statesAllowing(snapshotTransitions, event));
}

function wrongState(
  { id, state }: Pick<Snapshot, 'id' | 'state'>,
  allowedStates: readonly SnapshotState[],
): DomainError {
  return new DomainError('snapshot-wrong-state', {
    message: `Snapshot ${id} is ${state}; this needs it to be ${allowedStates.join(' or ')}.`,
    currentState: state,
    allowedStates,
    // Only `pending` passes by itself into a state that can be used or deleted.
    retryable: state === 'pending',
  });
}
