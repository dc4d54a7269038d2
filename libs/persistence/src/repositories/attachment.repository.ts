import {
  DomainError,
  isLiveAttachment,
  liveAttachmentStates,
  nextAttachmentState,
  type Attachment,
  type AttachmentConnection,
  type AttachmentEvent,
  type AttachmentId,
  type NodeId,
  type ProjectId,
  type Reason,
  type VolumeId,
} from '@cairn/domain';
import { In, type EntityManager } from 'typeorm';
import { AttachmentEntity } from '../entities/attachment.entity.js';
import { hydrate, returning } from '../hydrate.js';

/** What may change together with an attachment's state. A field left out stays; `null` clears it. */
export interface AttachmentChanges {
  nodeId?: NodeId;
  connection?: AttachmentConnection | null;
  reason?: Reason | null;
}

/** Attachments. Every change of state is compare-and-set, and a volume has at most one live attachment. */
export class AttachmentRepository {
  constructor(private readonly manager: EntityManager) {}

  /** Writes down a new attachment in `attaching`. Throws `concurrent-change` when the volume has a live one already. */
  async insert(
    attachment: Pick<
      Attachment,
      'id' | 'projectId' | 'volumeId' | 'instanceId' | 'nodeId' | 'generation' | 'readOnly' | 'numQueues'
    >,
  ): Promise<Attachment> {
    const { id, projectId, volumeId, instanceId, nodeId, generation, readOnly, numQueues } = attachment;
    const [row] = await returning(
      this.manager,
      AttachmentEntity,
      `INSERT INTO attachments (id, project_id, volume_id, instance_id, node_id, state, generation, read_only, num_queues)
       VALUES ($1, $2, $3, $4, $5, 'attaching', $6, $7, $8) RETURNING *`,
      [id, projectId, volumeId, instanceId ?? null, nodeId ?? null, generation, readOnly, numQueues],
    );
    if (!row) throw new Error(`Inserting ${id} returned no row.`);
    return toAttachment(row);
  }

  /** An attachment of a project's volume, or `undefined`. */
  async find(projectId: ProjectId, volumeId: VolumeId, id: AttachmentId): Promise<Attachment | undefined> {
    const row = await this.manager.findOneBy(AttachmentEntity, { id, volumeId, projectId });
    return row ? toAttachment(row) : undefined;
  }

  /** An attachment of a project's volume. Throws `attachment-not-found`. */
  async get(projectId: ProjectId, volumeId: VolumeId, id: AttachmentId): Promise<Attachment> {
    const attachment = await this.find(projectId, volumeId, id);
    if (attachment) return attachment;
    throw new DomainError('attachment-not-found', { message: `Volume ${volumeId} has no attachment ${id}.` });
  }

  /** Any project's attachment; for the worker, which has no project. */
  async findById(id: AttachmentId): Promise<Attachment | undefined> {
    const row = await this.manager.findOneBy(AttachmentEntity, { id });
    return row ? toAttachment(row) : undefined;
  }

  /** Any project's attachment, locked until the transaction ends, or `undefined`. */
  async findByIdForUpdate(id: AttachmentId): Promise<Attachment | undefined> {
    const rows: object[] = await this.manager.query('SELECT * FROM attachments WHERE id = $1 FOR UPDATE', [
      id,
    ]);
    const [row] = hydrate(this.manager, AttachmentEntity, rows);
    return row ? toAttachment(row) : undefined;
  }

  /** The attachment that holds the volume now, or `undefined`. */
  async findLive(volumeId: VolumeId): Promise<Attachment | undefined> {
    const row = await this.manager.findOneBy(AttachmentEntity, {
      volumeId,
      state: In([...liveAttachmentStates]),
    });
    return row ? toAttachment(row) : undefined;
  }

  /** The live attachments of these volumes. */
  async listLive(volumeIds: readonly VolumeId[]): Promise<Attachment[]> {
    if (volumeIds.length === 0) return [];
    const rows = await this.manager.findBy(AttachmentEntity, {
      volumeId: In([...volumeIds]),
      state: In([...liveAttachmentStates]),
    });
    return rows.map(toAttachment);
  }

  /** Every attachment that the volume has had, newest first. */
  async listByVolume(volumeId: VolumeId, limit = 100): Promise<Attachment[]> {
    const rows = await this.manager.find(AttachmentEntity, {
      where: { volumeId },
      order: { generation: 'DESC' },
      take: limit,
    });
    return rows.map(toAttachment);
  }

  /** The live attachments that a node should serve. */
  async listLiveByNode(nodeId: NodeId): Promise<Attachment[]> {
    const rows = await this.manager.findBy(AttachmentEntity, {
      nodeId,
      state: In([...liveAttachmentStates]),
    });
    return rows.map(toAttachment);
  }

  /**
   * Moves the attachment along its lifecycle from the state in which the caller saw it.
   *
   * Throws `attachment-wrong-state` when the event is illegal there, and `concurrent-change` when
   * the row has left that state since.
   */
  async transition(
    attachment: Attachment,
    event: AttachmentEvent,
    changes: AttachmentChanges = {},
  ): Promise<Attachment> {
    const to = nextAttachmentState(attachment, event);
    const { connection, reason } = changes;
    const [row] = await returning(
      this.manager,
      AttachmentEntity,
      `UPDATE attachments SET state = $3,
        node_id = coalesce($4, node_id),
        socket_path = CASE WHEN $5 THEN $6 ELSE socket_path END,
        serial = CASE WHEN $5 THEN $7 ELSE serial END,
        num_queues = coalesce($8, num_queues),
        reason_code = CASE WHEN $9 THEN $10 ELSE reason_code END,
        reason_message = CASE WHEN $9 THEN $11 ELSE reason_message END,
        ended_at = CASE WHEN $12 THEN now() END,
        updated_at = now()
      WHERE id = $1 AND state = $2 RETURNING *`,
      [
        attachment.id,
        attachment.state,
        to,
        changes.nodeId ?? null,
        connection !== undefined,
        connection?.socketPath ?? null,
        connection?.serial ?? null,
        connection?.numQueues ?? null,
        reason !== undefined,
        reason?.code ?? null,
        reason?.message ?? null,
        !isLiveAttachment(to),
      ],
    );
    if (row) return toAttachment(row);
    throw new DomainError('concurrent-change', {
      message: `Attachment ${attachment.id} is no longer ${attachment.state}. Look at it again and repeat.`,
      currentState: attachment.state,
    });
  }
}

function toAttachment(row: AttachmentEntity): Attachment {
  return {
    id: row.id,
    projectId: row.projectId,
    volumeId: row.volumeId,
    instanceId: row.instanceId ?? undefined,
    nodeId: row.nodeId ?? undefined,
    state: row.state,
    generation: row.generation,
    readOnly: row.readOnly,
    numQueues: row.numQueues,
    connection:
      row.socketPath === null || row.serial === null
        ? undefined
        : {
            type: 'vhost-user-blk',
            socketPath: row.socketPath,
            serial: row.serial,
            numQueues: row.numQueues,
          },
    reason: row.reasonCode === null ? undefined : { code: row.reasonCode, message: row.reasonMessage ?? '' },
    createdAt: row.createdAt,
    updatedAt: row.updatedAt,
    endedAt: row.endedAt ?? undefined,
  };
}
