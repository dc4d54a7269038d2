import {
  DomainError,
  newId,
  requestDigest,
  requireCompleted,
  requireState,
  requireUnmodified,
  sameRequestOrThrow,
  type Attachment,
  type Operation,
  type ProjectId,
  type SnapshotId,
  type Volume,
  type VolumeId,
} from '@cairn/domain';
import { UnitOfWork, type Repositories, type VolumeQuery } from '@cairn/persistence';
import { Injectable } from '@nestjs/common';
import { OperationStarter } from '../operations/operation.starter.js';

/** What a create asks for. */
export interface CreateVolume {
  /** Without it, the size of the source. */
  sizeBytes?: number;
  name?: string;
  /** What it begins as: one of these or none. */
  snapshotId?: SnapshotId;
  sourceVolumeId?: VolumeId;
  clientToken?: string;
}

/** Creates, reads and deletes volumes: rows and nudges, the worker does the rest. */
@Injectable()
export class VolumesService {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly starter: OperationStarter,
  ) {}

  /** One volume with the attachment that holds it. Throws `volume-not-found`. */
  async get(project: ProjectId, id: VolumeId): Promise<{ volume: Volume; attachments: Attachment[] }> {
    return this.unitOfWork.read(async ({ volumes, attachments }) => {
      const volume = await volumes.get(project, id);
      return { volume, attachments: await attachments.listLive([id]) };
    });
  }

  /** One page of volumes with the attachments that hold them. */
  async list(
    project: ProjectId,
    query: VolumeQuery,
  ): Promise<{ volumes: Volume[]; attachments: Attachment[]; next?: number }> {
    return this.unitOfWork.read(async ({ volumes, attachments }) => {
      const page = await volumes.list(project, query);
      return { ...page, attachments: await attachments.listLive(page.volumes.map(({ id }) => id)) };
    });
  }

  /**
   * Starts the creation of a volume.
   *
   * Volume and operation commit together; the nudge is only a hint, so a crash after commit costs a
   * delay, not the volume. The same clientToken gives the same operation. Throws `invalid-request` for a size less than
   * the source's, and what says that the source is not there or cannot be copied now.
   */
  async create(
    project: ProjectId,
    request: CreateVolume,
  ): Promise<{ operation: Operation; volume?: Volume }> {
    const { sizeBytes, name, snapshotId, sourceVolumeId, clientToken } = request;
    const digest = requestDigest({ kind: 'create-volume', sizeBytes, name, snapshotId, sourceVolumeId });
    const result = await this.unitOfWork.run(async (repositories) => {
      const { volumes, operations } = repositories;
      const replay = async () => {
        const earlier =
          clientToken === undefined ? undefined : await operations.findByClientToken(project, clientToken);
        return earlier && answerOf(repositories, project, earlier, digest);
      };
      const earlier = await replay();
      if (earlier) return earlier;
      const origin = await originOf(repositories, project, request);
      // Looked for again under the source's lock: a twin of this request may have committed while we waited.
      const twin = await replay();
      if (twin) return twin;

      const id = newId('vol');
      const { source, ...own } = origin;
      const { operation, isNew } = await operations.insert({
        projectId: project,
        kind: 'create-volume',
        params: { sizeBytes: own.sizeBytes, ...(source === undefined ? {} : { source }) },
        target: { volumeId: id },
        clientToken,
        requestDigest: digest,
      });
      if (!isNew) return answerOf(repositories, project, operation, digest);
      return { operation, volume: await volumes.insert({ id, projectId: project, name, source, ...own }) };
    });
    await this.starter.start(result.operation);
    return result;
  }

  /**
   * Starts the deletion of a volume, or answers with the deletion that is on its way or done.
   *
   * Throws `volume-in-use` while it is attached, `volume-wrong-state` while it is created, `volume-busy` while a snapshot
   * or a clone of it is being made, or it is being changed.
   */
  async delete(
    project: ProjectId,
    volumeId: VolumeId,
    clientToken: string | undefined,
  ): Promise<{ operation: Operation; volume?: Volume }> {
    const digest = requestDigest({ kind: 'delete-volume', volumeId });
    const result = await this.unitOfWork.run(async ({ volumes, snapshots, operations }) => {
      const earlier =
        clientToken === undefined ? undefined : await operations.findByClientToken(project, clientToken);
      if (earlier) {
        sameRequestOrThrow(earlier, { requestDigest: digest });
        return { operation: earlier, volume: await volumes.find(project, volumeId) };
      }
      const volume = await volumes.getForUpdate(project, volumeId);
      if (volume.state === 'deleting' || volume.state === 'deleted') {
        const operation = await operations.findLatest({ volumeId }, 'delete-volume');
        if (operation) return { operation, volume };
        throw new Error(`Volume ${volumeId} is ${volume.state}, but no operation deletes it.`);
      }
      if (await snapshots.isBeingTaken(volumeId)) {
        throw new DomainError('volume-busy', {
          message: `A snapshot of volume ${volumeId} is being taken. Try again in a moment.`,
        });
      }
      requireUnmodified(volume);
      if (await volumes.isBeingCloned(volumeId)) {
        throw new DomainError('volume-busy', {
          message: `A volume is being made of volume ${volumeId}. Try again in a moment.`,
        });
      }
      const deleting = await volumes.transition(volume, 'delete', { reason: null });
      const { operation, isNew } = await operations.insert({
        projectId: project,
        kind: 'delete-volume',
        params: {},
        target: { volumeId },
        clientToken,
        requestDigest: digest,
      });
      // The token was free a moment ago and no twin of this request can be past the lock: it is another request's.
      if (!isNew) sameRequestOrThrow(operation, { requestDigest: '' });
      return { operation, volume: deleting };
    });
    await this.starter.start(result.operation);
    return result;
  }
}

/** What an operation under the token of a create answers. Throws `idempotent-parameter-mismatch`. */
async function answerOf(
  { volumes }: Repositories,
  project: ProjectId,
  operation: Operation,
  digest: string,
): Promise<{ operation: Operation; volume?: Volume }> {
  sameRequestOrThrow(operation, { requestDigest: digest });
  const { volumeId } = operation.target;
  return { operation, volume: volumeId && (await volumes.find(project, volumeId)) };
}

/** The size, the source and, with a source, the place of a new volume; the source is locked until the transaction ends. */
async function originOf(
  { volumes, snapshots }: Repositories,
  project: ProjectId,
  { sizeBytes, snapshotId, sourceVolumeId }: CreateVolume,
): Promise<Pick<Volume, 'sizeBytes' | 'source' | 'nodeId' | 'poolId'>> {
  if (snapshotId !== undefined && sourceVolumeId !== undefined) {
    throw refusal('sourceVolumeId', 'must not be there together with snapshotId');
  }
  if (snapshotId !== undefined) {
    const snapshot = await snapshots.getForUpdate(project, snapshotId);
    requireCompleted(snapshot);
    const { nodeId, poolId } = snapshot;
    return { sizeBytes: atLeast(snapshot.sizeBytes, sizeBytes), source: { snapshotId }, nodeId, poolId };
  }
  if (sourceVolumeId !== undefined) {
    const volume = await volumes.getForUpdate(project, sourceVolumeId);
    requireState(volume, ['available', 'in-use']);
    requireUnmodified(volume);
    const { nodeId, poolId } = volume;
    return {
      sizeBytes: atLeast(volume.sizeBytes, sizeBytes),
      source: { volumeId: sourceVolumeId },
      nodeId,
      poolId,
    };
  }
  if (sizeBytes === undefined) throw refusal('sizeBytes', 'is missing; without a source it is needed');
  return { sizeBytes };
}

function atLeast(sourceBytes: number, sizeBytes = sourceBytes): number {
  if (sizeBytes >= sourceBytes) return sizeBytes;
  throw refusal('sizeBytes', `must not be less than the ${sourceBytes} of the source`);
}

function refusal(field: string, message: string): DomainError {
  return new DomainError('invalid-request', {
    message: `The request is not valid: ${field}. See errors.`,
    faults: [{ field, message }],
  });
}
