import {
  newId,
  NUM_QUEUES_DEFAULT,
  requestDigest,
  requireUnmodified,
  sameRequestOrThrow,
  type Attachment,
  type AttachmentId,
  type Operation,
  type OperationIntent,
  type ProjectId,
  type VolumeId,
} from '@cairn/domain';
import { UnitOfWork, type Repositories } from '@cairn/persistence';
import { Injectable } from '@nestjs/common';
import { OperationStarter } from '../operations/operation.starter.js';

/** What an attach asks for. */
export interface AttachVolume {
  volumeId: VolumeId;
  instanceId?: string;
  readOnly?: boolean;
  numQueues?: number;
  clientToken?: string;
}

/** What a detach asks for. */
export interface DetachVolume {
  volumeId: VolumeId;
  attachmentId: AttachmentId;
  force: boolean;
  clientToken?: string;
}

/** Attaches and detaches volumes: rows and nudges, the worker does the rest. */
@Injectable()
export class AttachmentsService {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly starter: OperationStarter,
  ) {}

  /** One attachment. Throws `volume-not-found` or `attachment-not-found`. */
  async get(project: ProjectId, volumeId: VolumeId, id: AttachmentId): Promise<Attachment> {
    return this.unitOfWork.read(async ({ volumes, attachments }) => {
      await volumes.get(project, volumeId);
      return attachments.get(project, volumeId, id);
    });
  }

  /** Every attachment the volume has had, newest first. Throws `volume-not-found`. */
  async list(project: ProjectId, volumeId: VolumeId): Promise<Attachment[]> {
    return this.unitOfWork.read(async ({ volumes, attachments }) => {
      await volumes.get(project, volumeId);
      return attachments.listByVolume(volumeId);
    });
  }

  /**
   * Reserves the volume and starts the attach.
   *
   * The volume is `in-use` and the attachment `attaching` from this transaction on, so of two callers
   * one gets `volume-in-use`. Throws `volume-busy` while the volume is being changed. If the attach fails, the worker gives the volume back.
   */
  async attach(
    project: ProjectId,
    request: AttachVolume,
  ): Promise<{ operation: Operation; attachment?: Attachment }> {
    const { volumeId, instanceId, clientToken } = request;
    const readOnly = request.readOnly ?? false;
    const numQueues = request.numQueues ?? NUM_QUEUES_DEFAULT;
    const digest = requestDigest({ kind: 'attach-volume', volumeId, instanceId, readOnly, numQueues });

    const result = await this.unitOfWork.run(async (repositories) => {
      const { volumes, attachments } = repositories;
      const earlier = await findReplay(repositories, project, clientToken, digest);
      if (earlier) return earlier;

      const volume = await volumes.getForUpdate(project, volumeId);
      // Looked for again under the volume's lock: a twin of this request may have committed while we waited.
      const twin = await findReplay(repositories, project, clientToken, digest);
      if (twin) return twin;

      requireUnmodified(volume);
      const reserved = await volumes.transition(volume, 'attached', { generation: volume.generation + 1 });
      const { generation } = reserved;
      const attachmentId = newId('att');
      const intent: OperationIntent = {
        projectId: project,
        kind: 'attach-volume',
        params: { generation, readOnly, numQueues },
        target: { volumeId, attachmentId },
        clientToken,
        requestDigest: digest,
      };
      const { operation } = await insertOrThrow(repositories, intent);
      const attachment = await attachments.insert({
        id: attachmentId,
        projectId: project,
        volumeId,
        instanceId,
        nodeId: volume.nodeId,
        generation,
        readOnly,
        numQueues,
      });
      return { operation, attachment };
    });
    await this.starter.start(result.operation);
    return result;
  }

  /**
   * Starts a detach, or joins the one that is on its way (and makes it a forced one when this one is).
   *
   * An attachment that has ended is answered with the operation that ended it, if there was one.
   * Throws `attachment-wrong-state` while it is still attaching.
   */
  async detach(
    project: ProjectId,
    request: DetachVolume,
  ): Promise<{ operation?: Operation; attachment?: Attachment }> {
    const { volumeId, attachmentId, force, clientToken } = request;
    const digest = requestDigest({ kind: 'detach-volume', volumeId, attachmentId, force });

    const result = await this.unitOfWork.run(async (repositories) => {
      const { volumes, attachments, operations } = repositories;
      const earlier = await findReplay(repositories, project, clientToken, digest);
      if (earlier) return earlier;

      await volumes.getForUpdate(project, volumeId);
      await attachments.get(project, volumeId, attachmentId);
      const attachment = await attachments.findByIdForUpdate(attachmentId);
      if (!attachment) return {};
      if (attachment.state !== 'attached' && attachment.state !== 'attaching') {
        const latest = await operations.findLatest({ volumeId, attachmentId }, 'detach-volume');
        const forced = force && latest ? await operations.forceDetach(latest.id) : undefined;
        return { operation: forced ?? latest, attachment };
      }
      const detaching = await attachments.transition(attachment, 'detach', { reason: null });
      const { operation } = await insertOrThrow(repositories, {
        projectId: project,
        kind: 'detach-volume',
        params: { generation: attachment.generation, force },
        target: { volumeId, attachmentId },
        clientToken,
        requestDigest: digest,
      });
      return { operation, attachment: detaching };
    });
    if (result.operation) await this.starter.start(result.operation);
    return result;
  }
}

/** What an earlier request under the same token began, or `undefined`. Throws `idempotent-parameter-mismatch`. */
async function findReplay(
  { operations, attachments }: Repositories,
  project: ProjectId,
  clientToken: string | undefined,
  digest: string,
): Promise<{ operation: Operation; attachment?: Attachment } | undefined> {
  const operation =
    clientToken === undefined ? undefined : await operations.findByClientToken(project, clientToken);
  if (!operation) return undefined;
  sameRequestOrThrow(operation, { requestDigest: digest });
  const { attachmentId } = operation.target;
  return { operation, attachment: attachmentId && (await attachments.findById(attachmentId)) };
}

/** Writes the operation down. The token was free a moment ago; if it no longer is, another request took it for something else. */
async function insertOrThrow(
  { operations }: Repositories,
  intent: OperationIntent,
): Promise<{ operation: Operation }> {
  const { operation, isNew } = await operations.insert(intent);
  if (!isNew) sameRequestOrThrow(operation, { requestDigest: '' });
  return { operation };
}
