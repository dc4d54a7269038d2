import {
  DomainError,
  newId,
  requestDigest,
  sameRequestOrThrow,
  type Attachment,
  type Operation,
  type OperationIntent,
  type ProjectId,
  type Volume,
  type VolumeId,
} from '@cairn/domain';
import { UnitOfWork, type VolumeQuery } from '@cairn/persistence';
import { Injectable } from '@nestjs/common';
import { OperationStarter } from '../operations/operation.starter.js';

/** What a create asks for. */
export interface CreateVolume {
  sizeBytes: number;
  name?: string;
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
   * delay, not the volume. The same clientToken gives the same operation.
   */
  async create(
    project: ProjectId,
    request: CreateVolume,
  ): Promise<{ operation: Operation; volume?: Volume }> {
    const { sizeBytes, name, clientToken } = request;
    const id = newId('vol');
    const intent: OperationIntent = {
      projectId: project,
      kind: 'create-volume',
      params: { sizeBytes },
      target: { volumeId: id },
      clientToken,
      requestDigest: requestDigest({ kind: 'create-volume', sizeBytes, name }),
    };
    const result = await this.unitOfWork.run(async ({ volumes, operations }) => {
      const { operation, isNew } = await operations.insert(intent);
      if (isNew)
        return {
          operation,
          volume: await volumes.insert({ id, projectId: project, name, sizeBytes }),
        };
      sameRequestOrThrow(operation, intent);
      const { volumeId } = operation.target;
      return { operation, volume: volumeId && (await volumes.find(project, volumeId)) };
    });
    await this.starter.start(result.operation);
    return result;
  }

  /**
   * Starts the deletion of a volume, or answers with the deletion that is on its way or done.
   *
   * Throws `volume-in-use` while it is attached, `volume-wrong-state` while it is created, `volume-busy` while a snapshot
   * of it is being taken.
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
