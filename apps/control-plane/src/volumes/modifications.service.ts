import {
  DomainError,
  requestDigest,
  requireCompleted,
  requireState,
  sameRequestOrThrow,
  type Operation,
  type OperationIntent,
  type ProjectId,
  type SnapshotId,
  type Volume,
  type VolumeId,
} from '@cairn/domain';
import { UnitOfWork, type Repositories } from '@cairn/persistence';
import { Injectable } from '@nestjs/common';
import { OperationStarter } from '../operations/operation.starter.js';

/** An operation that changes a volume, and the volume if it is still known. */
export interface Modifying {
  operation: Operation;
  volume?: Volume;
}

/** What a modification is, without what every intent has. */
type Intent = Omit<Extract<OperationIntent, { kind: 'resize-volume' | 'revert-volume' }>, 'requestDigest'>;

/** Resizes and reverts volumes: rows and nudges, the worker does the rest. One change of a volume at a time. */
@Injectable()
export class ModificationsService {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly starter: OperationStarter,
  ) {}

  /**
   * Starts making a volume larger, attached or not.
   *
   * Throws `invalid-request` for less than it has, `volume-wrong-state` and `volume-busy`.
   */
  resize(
    project: ProjectId,
    request: { volumeId: VolumeId; sizeBytes: number; clientToken?: string },
  ): Promise<Modifying> {
    const { volumeId, sizeBytes, clientToken } = request;
    const digest = requestDigest({ kind: 'resize-volume', volumeId, sizeBytes });
    return this.begin({ project, volumeId, clientToken, digest }, async ({ volumes }, volume) => {
      requireState(volume, ['available', 'in-use']);
      if (sizeBytes < volume.sizeBytes) {
        const message = `must not be less than the ${volume.sizeBytes} that the volume has`;
        throw new DomainError('invalid-request', {
          message: `Volume ${volumeId} has ${volume.sizeBytes} bytes and never shrinks.`,
          faults: [{ field: 'sizeBytes', message }],
        });
      }
      return {
        modified: await volumes.modify(volume, 'resize'),
        intent: { kind: 'resize-volume', params: { sizeBytes }, target: { volumeId } },
      };
    });
  }

  /**
   * Starts making a detached volume read as one of its snapshots again. What was written since is gone.
   *
   * Throws `invalid-request` for a snapshot of another volume, `snapshot-not-found`, `snapshot-wrong-state`,
   * `volume-wrong-state` and `volume-busy`.
   */
  revert(
    project: ProjectId,
    request: { volumeId: VolumeId; snapshotId: SnapshotId; clientToken?: string },
  ): Promise<Modifying> {
    const { volumeId, snapshotId, clientToken } = request;
    const digest = requestDigest({ kind: 'revert-volume', volumeId, snapshotId });
    return this.begin({ project, volumeId, clientToken, digest }, async ({ volumes, snapshots }, volume) => {
      requireState(volume, ['available']);
      const snapshot = await snapshots.getForUpdate(project, snapshotId);
      requireCompleted(snapshot);
      if (snapshot.volumeId !== volumeId) {
        throw new DomainError('invalid-request', {
          message: `Snapshot ${snapshotId} is of ${snapshot.volumeId === undefined ? 'no volume' : `volume ${snapshot.volumeId}`}.`,
          faults: [{ field: 'snapshotId', message: 'must be a snapshot of this volume' }],
        });
      }
      // The fence: a call for this revert that comes late cannot undo what is written after it.
      const modified = await volumes.modify(volume, 'revert', volume.generation + 1);
      const params = { generation: modified.generation };
      return { modified, intent: { kind: 'revert-volume', params, target: { volumeId, snapshotId } } };
    });
  }

  private async begin(
    request: { project: ProjectId; volumeId: VolumeId; clientToken: string | undefined; digest: string },
    modify: (
      repositories: Repositories,
      volume: Volume,
    ) => Promise<{ modified: Volume; intent: Omit<Intent, 'projectId' | 'clientToken'> }>,
  ): Promise<Modifying> {
    const { project, volumeId, clientToken, digest } = request;
    const result = await this.unitOfWork.run(async (repositories) => {
      const { volumes, snapshots, operations } = repositories;
      const replay = async (): Promise<Modifying | undefined> => {
        const operation =
          clientToken === undefined ? undefined : await operations.findByClientToken(project, clientToken);
        if (!operation) return undefined;
        sameRequestOrThrow(operation, { requestDigest: digest });
        return { operation, volume: await volumes.find(project, volumeId) };
      };
      const earlier = await replay();
      if (earlier) return earlier;
      const volume = await volumes.getForUpdate(project, volumeId);
      // Looked for again under the lock: a twin of this request may have committed while we waited.
      const twin = await replay();
      if (twin) return twin;

      if ((await snapshots.isBeingTaken(volumeId)) || (await volumes.isBeingCloned(volumeId))) {
        throw new DomainError('volume-busy', {
          message: `A snapshot or a clone of volume ${volumeId} is being made. Try again in a moment.`,
        });
      }
      const { modified, intent } = await modify(repositories, volume);
      const whole = { ...intent, projectId: project, clientToken, requestDigest: digest } as OperationIntent;
      const { operation, isNew } = await operations.insert(whole);
      // The token was free a moment ago and no twin of this request can be past the lock: it is another request's.
      if (!isNew) sameRequestOrThrow(operation, { requestDigest: '' });
      return { operation, volume: modified };
    });
    await this.starter.start(result.operation);
    return result;
  }
}
