import { GIB, MIB, TIB, formatBytes } from './bytes.js';
import { DomainError, type FieldFault, type Reason } from './errors.js';
import type { NodeId, PoolId, ProjectId, SnapshotId, VolumeId } from './ids.js';
import type { SpaceUsage } from './space-usage.js';
import { next, statesAllowing, type TransitionTable } from './state-machine.js';

export const volumeStates = ['creating', 'available', 'in-use', 'deleting', 'deleted', 'error'] as const;
export type VolumeState = (typeof volumeStates)[number];
export const volumeEvents = ['created', 'failed', 'attached', 'detached', 'delete', 'removed'] as const;
export type VolumeEvent = (typeof volumeEvents)[number];

/** Volume lifecycle. A pair that is not listed is illegal. */
export const volumeTransitions: TransitionTable<VolumeState, VolumeEvent> = {
  creating: { created: 'available', failed: 'error' },
  available: { attached: 'in-use', delete: 'deleting' },
  'in-use': { detached: 'available' },
  deleting: { removed: 'deleted', failed: 'error' },
  error: { delete: 'deleting' },
  deleted: {},
};

export const modificationStates = ['none', 'modifying', 'completed', 'failed'] as const;
export type ModificationState = (typeof modificationStates)[number];
export const modificationEvents = ['modify', 'completed', 'failed'] as const;
export type ModificationEvent = (typeof modificationEvents)[number];
export const modificationKinds = ['resize', 'revert'] as const;
export type ModificationKind = (typeof modificationKinds)[number];

/** What a volume is being changed into, beside its lifecycle: one change at a time. A pair that is not listed is illegal. */
export const modificationTransitions: TransitionTable<ModificationState, ModificationEvent> = {
  none: { modify: 'modifying' },
  modifying: { completed: 'completed', failed: 'failed' },
  completed: { modify: 'modifying' },
  failed: { modify: 'modifying' },
};

/** The change that a volume is in, or the last one that it was in. */
export interface Modification {
  state: ModificationState;
  /** Unset in `none`. */
  kind?: ModificationKind;
  /** Why it is `failed`. */
  reason?: Reason;
}

/** What a volume began as: a snapshot, or another volume as it was then. Either may be gone. */
export type VolumeSource =
  { snapshotId: SnapshotId; volumeId?: undefined } | { snapshotId?: undefined; volumeId: VolumeId };

/** A volume as the control world knows it. */
export interface Volume {
  id: VolumeId;
  projectId: ProjectId;
  name?: string;
  sizeBytes: number;
  state: VolumeState;
  /** Why it is in `error`. */
  reason?: Reason;
  source?: VolumeSource;
  modification: Modification;
  /** Grows by one with every attachment and revert: the fence that an older one cannot pass. */
  generation: number;
  /** Where the bytes are; unset until the worker has placed the volume. */
  nodeId?: NodeId;
  poolId?: PoolId;
  usage?: SpaceUsage;
  createdAt: Date;
  updatedAt: Date;
  deletedAt?: Date;
}

/** Sizes are whole file-system blocks, so that a hole is never split. */
export const VOLUME_SIZE_MULTIPLE = 4096;
export const VOLUME_SIZE_MIN = MIB;
export const VOLUME_SIZE_MAX = 64 * TIB;

/** How long a deleted volume can still be read by id. Lists leave it out at once. */
export const DELETED_VOLUME_RETENTION_MS = 60 * 60 * 1000;

/** What is wrong with a volume size, or `undefined` when it is right. */
export function volumeSizeFault(sizeBytes: unknown): string | undefined {
  if (typeof sizeBytes !== 'number' || !Number.isSafeInteger(sizeBytes)) {
    return `must be a whole number of bytes, for example ${GIB}`;
  }
  if (sizeBytes < VOLUME_SIZE_MIN || sizeBytes > VOLUME_SIZE_MAX) {
    return `must be between ${formatBytes(VOLUME_SIZE_MIN)} and ${formatBytes(VOLUME_SIZE_MAX)} (${VOLUME_SIZE_MIN} to ${VOLUME_SIZE_MAX})`;
  }
  if (sizeBytes % VOLUME_SIZE_MULTIPLE !== 0) return `must be a multiple of ${VOLUME_SIZE_MULTIPLE}`;
  return undefined;
}

/** The fault list for a size, ready for an `invalid-request`. */
export function volumeSizeFaults(sizeBytes: unknown): FieldFault[] {
  const message = volumeSizeFault(sizeBytes);
  return message === undefined ? [] : [{ field: 'sizeBytes', message }];
}

/**
 * The volume's state after the event.
 *
 * Throws `volume-in-use` (an attached volume cannot be attached again or deleted) or
 * `volume-wrong-state`, both with the current and the allowed states.
 */
export function nextVolumeState(volume: Pick<Volume, 'id' | 'state'>, event: VolumeEvent): VolumeState {
  const to = next(volumeTransitions, volume.state, event);
  if (to !== undefined) return to;
  const allowedStates = statesAllowing(volumeTransitions, event);
  const inUse = volume.state === 'in-use' && (event === 'attached' || event === 'delete');
  throw new DomainError(inUse ? 'volume-in-use' : 'volume-wrong-state', {
    message: inUse
      ? `Volume ${volume.id} is attached. Detach it first.`
      : `Volume ${volume.id} is ${volume.state}; this needs it to be ${allowedStates.join(' or ')}.`,
    currentState: volume.state,
    allowedStates,
    // Only `creating` passes by itself into a state that can be attached or deleted.
    retryable: volume.state === 'creating',
  });
}

/** The modification's state after the event. Throws `volume-busy` while another modification is on its way. */
export function nextModificationState(
  volume: Pick<Volume, 'id' | 'modification'>,
  event: ModificationEvent,
): ModificationState {
  const to = next(modificationTransitions, volume.modification.state, event);
  if (to !== undefined) return to;
  throw new DomainError('volume-busy', {
    message: `The modification of volume ${volume.id} is ${volume.modification.state}. Try again in a moment.`,
    currentState: volume.modification.state,
    allowedStates: statesAllowing(modificationTransitions, event),
    retryable: volume.modification.state === 'modifying',
  });
}

/** Throws `volume-busy` while the volume is being changed. */
export function requireUnmodified(volume: Pick<Volume, 'id' | 'modification'>): void {
  if (volume.modification.state === 'modifying') nextModificationState(volume, 'modify');
}

/** Throws `volume-wrong-state` unless the volume is in one of these states. */
export function requireState(
  volume: Pick<Volume, 'id' | 'state'>,
  allowedStates: readonly VolumeState[],
): void {
  if (allowedStates.includes(volume.state)) return;
  throw new DomainError('volume-wrong-state', {
    message: `Volume ${volume.id} is ${volume.state}; this needs it to be ${allowedStates.join(' or ')}.`,
    currentState: volume.state,
    allowedStates,
    retryable: volume.state === 'creating',
  });
}
