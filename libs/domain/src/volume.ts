import { GIB, MIB, TIB, formatBytes } from './bytes.js';
import { DomainError, type FieldFault, type Reason } from './errors.js';
import type { NodeId, PoolId, ProjectId, VolumeId } from './ids.js';
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

/** A volume as the control world knows it. */
export interface Volume {
  id: VolumeId;
  projectId: ProjectId;
  name?: string;
  sizeBytes: number;
  state: VolumeState;
  /** Why it is in `error`. */
  reason?: Reason;
  /** Grows by one with every attachment: the fence that an older attachment cannot pass. */
  generation: number;
  /** Where the bytes are; unset until the worker has placed the volume. */
  nodeId?: NodeId;
  poolId?: PoolId;
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
