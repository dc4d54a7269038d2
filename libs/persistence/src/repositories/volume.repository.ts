import {
  DELETED_VOLUME_RETENTION_MS,
  DomainError,
  nextModificationState,
  nextVolumeState,
  type Modification,
  type ModificationEvent,
  type ModificationKind,
  type ModificationState,
  type NodeId,
  type PoolId,
  type ProjectId,
  type Reason,
  type SnapshotId,
  type Volume,
  type VolumeEvent,
  type VolumeId,
  type VolumeSource,
  type VolumeState,
} from '@cairn/domain';
import { In, LessThan, Not, type EntityManager } from 'typeorm';
import { VolumeEntity } from '../entities/volume.entity.js';
import { hydrate, returning } from '../hydrate.js';
import { recordUsage, usageOf, type MeasuredUsage } from '../space-usage.js';

/** What may change together with a volume's state. A field left out stays; `null` clears the reason. */
export interface VolumeChanges {
  generation?: number;
  reason?: Reason | null;
}

/** Which volumes of a project to list. */
export interface VolumeQuery {
  /** Without it, every state but `deleted`. */
  states?: readonly VolumeState[];
  limit: number;
  /** `next` of the page before. */
  after?: number;
}

/** Volumes, newest first, and where the next page begins; `next` is unset on the last page. */
export interface VolumePage {
  volumes: Volume[];
  next?: number;
}

/** What a new volume is. */
export type NewVolume = Pick<
  Volume,
  'id' | 'projectId' | 'name' | 'sizeBytes' | 'source' | 'nodeId' | 'poolId'
>;

/** Volumes. Every change of state is compare-and-set. */
export class VolumeRepository {
  constructor(private readonly manager: EntityManager) {}

  /** Writes down a new volume in `creating`; one with a source is placed where that is. */
  async insert(volume: NewVolume): Promise<Volume> {
    const rows = await returning(
      this.manager,
      VolumeEntity,
      `INSERT INTO volumes (id, project_id, name, size_bytes, state, source_snapshot_id, source_volume_id, node_id,
         pool_id)
       VALUES ($1, $2, $3, $4, 'creating', $5, $6, $7, $8) RETURNING *`,
      [
        volume.id,
        volume.projectId,
        volume.name ?? null,
        volume.sizeBytes,
        volume.source?.snapshotId ?? null,
        volume.source?.volumeId ?? null,
        volume.nodeId ?? null,
        volume.poolId ?? null,
      ],
    );
    return only(rows, volume.id);
  }

  /** A project's volume, or `undefined` when it has none of this id, or had one that was deleted too long ago. */
  async find(projectId: ProjectId, id: VolumeId): Promise<Volume | undefined> {
    const row = await this.manager.findOneBy(VolumeEntity, { id, projectId });
    if (!row || isForgotten(row)) return undefined;
    return toVolume(row);
  }

  /** A project's volume. Throws `volume-not-found`. */
  async get(projectId: ProjectId, id: VolumeId): Promise<Volume> {
    return foundOrThrow(await this.find(projectId, id), id);
  }

  /** A project's volume, locked until the transaction ends. Throws `volume-not-found`. */
  async getForUpdate(projectId: ProjectId, id: VolumeId): Promise<Volume> {
    const volume = await this.findByIdForUpdate(id);
    return foundOrThrow(volume?.projectId === projectId ? volume : undefined, id);
  }

  /** Any project's volume; for the worker, which has no project. */
  async findById(id: VolumeId): Promise<Volume | undefined> {
    const row = await this.manager.findOneBy(VolumeEntity, { id });
    return row ? toVolume(row) : undefined;
  }

  /** Any project's volume, locked until the transaction ends, or `undefined`. */
  async findByIdForUpdate(id: VolumeId): Promise<Volume | undefined> {
    const rows: object[] = await this.manager.query('SELECT * FROM volumes WHERE id = $1 FOR UPDATE', [id]);
    const [row] = hydrate(this.manager, VolumeEntity, rows);
    return row && !isForgotten(row) ? toVolume(row) : undefined;
  }

  /** Volumes that a node should hold. */
  async listByNode(nodeId: NodeId): Promise<Volume[]> {
    const rows = await this.manager.findBy(VolumeEntity, { nodeId, state: Not('deleted') });
    return rows.map(toVolume);
  }

  /** One page of a project's volumes, newest first. Rows that come or go between pages neither repeat nor hide others. */
  async list(projectId: ProjectId, query: VolumeQuery): Promise<VolumePage> {
    const rows = await this.manager.find(VolumeEntity, {
      where: {
        projectId,
        state: query.states ? In(query.states) : Not('deleted'),
        ...(query.after === undefined ? {} : { seq: LessThan(query.after) }),
      },
      order: { seq: 'DESC' },
      take: query.limit + 1,
    });
    const page = rows.slice(0, query.limit);
    const volumes = page.filter((row) => !isForgotten(row)).map(toVolume);
    return rows.length > query.limit ? { volumes, next: page.at(-1)?.seq } : { volumes };
  }

  /**
   * Moves the volume along its lifecycle from the state in which the caller saw it.
   *
   * Throws `volume-in-use` or `volume-wrong-state` when the event is illegal there, and
   * `concurrent-change` when the row has left that state since.
   */
  async transition(volume: Volume, event: VolumeEvent, changes: VolumeChanges = {}): Promise<Volume> {
    const to = nextVolumeState(volume, event);
    const { reason } = changes;
    const rows = await returning(
      this.manager,
      VolumeEntity,
      `UPDATE volumes SET state = $3,
        generation = coalesce($4, generation),
        reason_code = CASE WHEN $5 THEN $6 ELSE reason_code END,
        reason_message = CASE WHEN $5 THEN $7 ELSE reason_message END,
        deleted_at = CASE WHEN $3 = 'deleted' THEN now() END,
        updated_at = now()
      WHERE id = $1 AND state = $2 RETURNING *`,
      [
        volume.id,
        volume.state,
        to,
        changes.generation ?? null,
        reason !== undefined,
        reason?.code ?? null,
        reason?.message ?? null,
      ],
    );
    const [row] = rows;
    if (row) return toVolume(row);
    throw new DomainError('concurrent-change', {
      message: `Volume ${volume.id} is no longer ${volume.state}. Look at it again and repeat.`,
      currentState: volume.state,
    });
  }

  /**
   * Begins a change of a volume that is in one of its states, from what the caller saw.
   *
   * Throws `volume-busy` while another change is on its way, and `concurrent-change` when the row is another since.
   */
  async modify(volume: Volume, kind: ModificationKind, generation = volume.generation): Promise<Volume> {
    const to = nextModificationState(volume, 'modify');
    return this.changeModification(volume, to, { kind, generation });
  }

  /** Ends a change, with the size it came to or with the reason why it came to nothing. Throws like `modify`. */
  async endModification(
    volume: Volume,
    event: Exclude<ModificationEvent, 'modify'>,
    changes: { sizeBytes?: number; reason?: Reason } = {},
  ): Promise<Volume> {
    return this.changeModification(volume, nextModificationState(volume, event), changes);
  }

  /** True while a volume is being made of this one or of this snapshot. */
  async isBeingCloned(source: SnapshotId | VolumeId): Promise<boolean> {
    const rows: object[] = await this.manager.query(
      `SELECT 1 FROM volumes WHERE coalesce(source_snapshot_id, source_volume_id) = $1 AND state = 'creating' LIMIT 1`,
      [source],
    );
    return rows.length > 0;
  }

  /**
   * Chooses where the volume's bytes go, once: a volume that has a place keeps it, and that place is returned.
   *
   * Throws `volume-not-found` when the row is gone.
   */
  async place(id: VolumeId, place: { nodeId: NodeId; poolId: PoolId }): Promise<Volume> {
    await this.manager.query(
      'UPDATE volumes SET node_id = $2, pool_id = $3, updated_at = now() WHERE id = $1 AND node_id IS NULL',
      [id, place.nodeId, place.poolId],
    );
    return foundOrThrow(await this.findById(id), id);
  }

  /**
   * Gives up the place of a volume that its node refused before any byte was written, so that another can be chosen.
   *
   * Only a `creating` volume that is still at that node is changed.
   */
  async unplace(id: VolumeId, nodeId: NodeId): Promise<void> {
    await this.manager.query(
      `UPDATE volumes SET node_id = NULL, pool_id = NULL, updated_at = now()
       WHERE id = $1 AND node_id = $2 AND state = 'creating'`,
      [id, nodeId],
    );
  }

  private async changeModification(
    volume: Volume,
    to: ModificationState,
    changes: { kind?: ModificationKind; generation?: number; sizeBytes?: number; reason?: Reason },
  ): Promise<Volume> {
    const [row] = await returning(
      this.manager,
      VolumeEntity,
      `UPDATE volumes SET modification_state = $4, modification_kind = coalesce($5, modification_kind),
        generation = coalesce($6, generation), size_bytes = coalesce($7, size_bytes),
        modification_code = $8, modification_message = $9, updated_at = now()
      WHERE id = $1 AND state = $2 AND modification_state = $3 RETURNING *`,
      [
        volume.id,
        volume.state,
        volume.modification.state,
        to,
        changes.kind ?? null,
        changes.generation ?? null,
        changes.sizeBytes ?? null,
        changes.reason?.code ?? null,
        changes.reason?.message ?? null,
      ],
    );
    if (row) return toVolume(row);
    throw new DomainError('concurrent-change', {
      message: `Volume ${volume.id} was changed by another. Look at it again and repeat.`,
      currentState: volume.modification.state,
    });
  }

  /** Keeps what a node measured; what is not of a row here is left out. */
  recordUsage(usage: readonly MeasuredUsage[], measuredAt: string): Promise<void> {
    return recordUsage(this.manager, 'volumes', usage, measuredAt);
  }

  /** Forgets volumes deleted longer ago than the retention, with their attachments. Returns how many. */
  async purgeDeleted(limit = 1000): Promise<number> {
    const rows: object[] = await this.manager.query(
      `WITH changed AS (DELETE FROM volumes WHERE id = ANY (ARRAY(
         SELECT id FROM volumes WHERE state = 'deleted' AND deleted_at < now() - $1 * interval '1 millisecond'
         ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id) SELECT id FROM changed`,
      [DELETED_VOLUME_RETENTION_MS, limit],
    );
    return rows.length;
  }
}

function isForgotten(row: VolumeEntity): boolean {
  return row.deletedAt !== null && row.deletedAt.getTime() < Date.now() - DELETED_VOLUME_RETENTION_MS;
}

function foundOrThrow(volume: Volume | undefined, id: VolumeId): Volume {
  if (volume) return volume;
  throw new DomainError('volume-not-found', { message: `There is no volume ${id}.` });
}

function only(rows: VolumeEntity[], id: VolumeId): Volume {
  const [row] = rows;
  if (!row) throw new Error(`Inserting ${id} returned no row.`);
  return toVolume(row);
}

function toVolume(row: VolumeEntity): Volume {
  return {
    id: row.id,
    projectId: row.projectId,
    name: row.name ?? undefined,
    sizeBytes: row.sizeBytes,
    state: row.state,
    reason: row.reasonCode === null ? undefined : { code: row.reasonCode, message: row.reasonMessage ?? '' },
    source: sourceOf(row),
    modification: modificationOf(row),
    generation: row.generation,
    nodeId: row.nodeId ?? undefined,
    poolId: row.poolId ?? undefined,
    usage: usageOf(row),
    createdAt: row.createdAt,
    updatedAt: row.updatedAt,
    deletedAt: row.deletedAt ?? undefined,
  };
}

function sourceOf({ sourceSnapshotId, sourceVolumeId }: VolumeEntity): VolumeSource | undefined {
  if (sourceSnapshotId !== null) return { snapshotId: sourceSnapshotId };
  return sourceVolumeId === null ? undefined : { volumeId: sourceVolumeId };
}

function modificationOf(row: VolumeEntity): Modification {
  return {
    state: row.modificationState,
    kind: row.modificationKind ?? undefined,
    reason:
      row.modificationCode === null
        ? undefined
        : { code: row.modificationCode, message: row.modificationMessage ?? '' },
  };
}
