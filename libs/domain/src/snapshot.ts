import { DomainError, type Reason } from './errors.js';
import type { GroupId, NodeId, PoolId, ProjectId, SnapshotId, VolumeId } from './ids.js';
import type { SpaceUsage } from './space-usage.js';
import { next, statesAllowing, type TransitionTable } from './state-machine.js';

export const snapshotStates = ['pending', 'completed', 'deleting', 'deleted', 'error'] as const;
export type SnapshotState = (typeof snapshotStates)[number];
export const snapshotEvents = ['completed', 'failed', 'delete', 'removed', 'lost', 'found'] as const;
export type SnapshotEvent = (typeof snapshotEvents)[number];

/**
 * Snapshot lifecycle. A pair that is not listed is illegal.
 *
 * `lost` is a completed snapshot that its node has no more; `found` is one that the node has again, as when somebody
 * put its manifest back.
 */
export const snapshotTransitions: TransitionTable<SnapshotState, SnapshotEvent> = {
  pending: { completed: 'completed', failed: 'error' },
  completed: { delete: 'deleting', lost: 'error' },
  deleting: { removed: 'deleted', failed: 'error' },
  error: { delete: 'deleting', found: 'completed' },
  deleted: {},
};

/** Words of the caller's on a record, by key. */
export type Tags = Readonly<Record<string, string>>;

/** What a volume was at one point in time, as the control world knows it. */
export interface Snapshot {
  id: SnapshotId;
  projectId: ProjectId;
  /** The volume it was taken of, which may be gone. */
  volumeId: VolumeId;
  /** What was taken at the same moment has the same group. */
  groupId?: GroupId;
  name?: string;
  description: string;
  tags: Tags;
  sizeBytes: number;
  state: SnapshotState;
  /** Why it is in `error`. */
  reason?: Reason;
  nodeId: NodeId;
  poolId: PoolId;
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

/** How long a deleted snapshot can still be read by id. Lists leave it out at once. */
export const DELETED_SNAPSHOT_RETENTION_MS = 60 * 60 * 1000;

/** Throws `snapshot-wrong-state` unless its bytes can be read. */
export function requireCompleted(snapshot: Pick<Snapshot, 'id' | 'state'>): void {
  if (snapshot.state !== 'completed') throw wrongState(snapshot, ['completed']);
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
