import {
  DELETED_SNAPSHOT_RETENTION_MS,
  DomainError,
  nextSnapshotState,
  nextWritingState,
  type GroupId,
  type NodeId,
  type PoolId,
  type ProjectId,
  type Reason,
  type Snapshot,
  type SnapshotEvent,
  type SnapshotId,
  type SnapshotState,
  type VolumeId,
  type WritingEvent,
} from '@cairn/domain';
import { In, LessThan, Not, type EntityManager } from 'typeorm';
import { SnapshotEntity } from '../entities/snapshot.entity.js';
import { hydrate, returning } from '../hydrate.js';
import { recordUsage, usageOf, type MeasuredUsage } from '../space-usage.js';

/** What a new snapshot is. */
export type NewSnapshot = Omit<
  Snapshot,
  'state' | 'reason' | 'progress' | 'usage' | 'createdAt' | 'updatedAt' | 'completedAt' | 'deletedAt'
>;

/** Which snapshots of a project to list. */
export interface SnapshotQuery {
  volumeId?: VolumeId;
  groupId?: GroupId;
  /** Without it, every state but `deleted`. */
  states?: readonly SnapshotState[];
  limit: number;
  /** `next` of the page before. */
  after?: number;
}

/** Snapshots, newest first, and where the next page begins; `next` is unset on the last page. */
export interface SnapshotPage {
  snapshots: Snapshot[];
  next?: number;
}

/** Snapshots. Every change of state is compare-and-set. */
export class SnapshotRepository {
  constructor(private readonly manager: EntityManager) {}

  /** Writes down a new snapshot in `pending`. */
  async insert(snapshot: NewSnapshot): Promise<Snapshot> {
    const [row] = await returning(
      this.manager,
      SnapshotEntity,
      `INSERT INTO snapshots (id, project_id, volume_id, group_id, name, description, tags, size_bytes, state, node_id,
         pool_id, parent_snapshot_id, writing)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9, $10, $11, $12) RETURNING *`,
      [
        snapshot.id,
        snapshot.projectId,
        snapshot.volumeId ?? null,
        snapshot.groupId ?? null,
        snapshot.name ?? null,
        snapshot.description,
        JSON.stringify(snapshot.tags),
        snapshot.sizeBytes,
        snapshot.nodeId ?? null,
        snapshot.poolId ?? null,
        snapshot.parentSnapshotId ?? null,
        snapshot.writing ?? null,
      ],
    );
    if (!row) throw new Error(`Inserting ${snapshot.id} returned no row.`);
    return toSnapshot(row);
  }

  /** A project's snapshot, or `undefined` when it has none of this id, or had one that was deleted too long ago. */
  async find(projectId: ProjectId, id: SnapshotId): Promise<Snapshot | undefined> {
    const row = await this.manager.findOneBy(SnapshotEntity, { id, projectId });
    return row && !isForgotten(row) ? toSnapshot(row) : undefined;
  }

  /** A project's snapshot. Throws `snapshot-not-found`. */
  async get(projectId: ProjectId, id: SnapshotId): Promise<Snapshot> {
    return foundOrThrow(await this.find(projectId, id), id);
  }

  /** A project's snapshot, locked until the transaction ends. Throws `snapshot-not-found`. */
  async getForUpdate(projectId: ProjectId, id: SnapshotId): Promise<Snapshot> {
    const rows: object[] = await this.manager.query(
      'SELECT * FROM snapshots WHERE id = $1 AND project_id = $2 FOR UPDATE',
      [id, projectId],
    );
    const [row] = hydrate(this.manager, SnapshotEntity, rows);
    return foundOrThrow(row && !isForgotten(row) ? toSnapshot(row) : undefined, id);
  }

  /** Any project's snapshots, in the order of their making; for the worker, which has no project. */
  async listById(ids: readonly SnapshotId[]): Promise<Snapshot[]> {
    const rows = await this.manager.find(SnapshotEntity, {
      where: { id: In([...ids]) },
      order: { seq: 'ASC' },
    });
    return rows.map(toSnapshot);
  }

  /** Snapshots that a node should hold, or was asked to remove. */
  async listByNode(nodeId: NodeId): Promise<Snapshot[]> {
    const rows = await this.manager.findBy(SnapshotEntity, { nodeId, state: Not('deleted') });
    return rows.map(toSnapshot);
  }

  /** True while a snapshot of the volume is being taken. */
  async isBeingTaken(volumeId: VolumeId): Promise<boolean> {
    return this.manager.existsBy(SnapshotEntity, { volumeId, state: 'pending' });
  }

  /** True while a snapshot that begins as this one is being started. */
  async isBeingExtended(id: SnapshotId): Promise<boolean> {
    return this.manager.existsBy(SnapshotEntity, { parentSnapshotId: id, writing: 'starting' });
  }

  /**
   * Chooses where the bytes of a snapshot that is written from blocks go, once: one that has a place keeps it, and that
   * is returned. Throws `snapshot-not-found` when the row is gone.
   */
  async place(id: SnapshotId, place: { nodeId: NodeId; poolId: PoolId }): Promise<Snapshot> {
    await this.manager.query(
      'UPDATE snapshots SET node_id = $2, pool_id = $3, updated_at = now() WHERE id = $1 AND node_id IS NULL',
      [id, place.nodeId, place.poolId],
    );
    const [snapshot] = await this.listById([id]);
    return foundOrThrow(snapshot, id);
  }

  /** Gives up the place of a snapshot that its node refused to start, so that another can be chosen. */
  async unplace(id: SnapshotId, nodeId: NodeId): Promise<void> {
    await this.manager.query(
      `UPDATE snapshots SET node_id = NULL, pool_id = NULL, updated_at = now()
       WHERE id = $1 AND node_id = $2 AND writing = 'starting'`,
      [id, nodeId],
    );
  }

  /**
   * Moves the writing of a pending snapshot on from where the caller saw it.
   *
   * Throws `snapshot-wrong-state` and `snapshot-busy` when the event is illegal there, and `concurrent-change` when the
   * row has left that state since.
   */
  async moveWriting(snapshot: Snapshot, event: WritingEvent): Promise<Snapshot> {
    const to = nextWritingState(snapshot, event);
    const [row] = await returning(
      this.manager,
      SnapshotEntity,
      `UPDATE snapshots SET writing = $3, updated_at = now()
       WHERE id = $1 AND state = 'pending' AND writing = $2 RETURNING *`,
      [snapshot.id, snapshot.writing, to],
    );
    if (row) return toSnapshot(row);
    throw changedSince(snapshot);
  }

  /** Keeps how far those who put blocks say that they are; what is not being written is left out. */
  async recordProgress(progress: readonly { id: SnapshotId; percent: number }[]): Promise<void> {
    await this.manager.query(
      `UPDATE snapshots AS t SET progress = p.percent
       FROM unnest($1::text[], $2::int2[]) AS p (id, percent) WHERE t.id = p.id AND t.writing IS NOT NULL`,
      [progress.map(({ id }) => id), progress.map(({ percent }) => percent)],
    );
  }

  /** One page of a project's snapshots, newest first. Rows that come or go between pages neither repeat nor hide others. */
  async list(projectId: ProjectId, query: SnapshotQuery): Promise<SnapshotPage> {
    const rows = await this.manager.find(SnapshotEntity, {
      where: {
        projectId,
        state: query.states ? In(query.states) : Not('deleted'),
        ...(query.volumeId === undefined ? {} : { volumeId: query.volumeId }),
        ...(query.groupId === undefined ? {} : { groupId: query.groupId }),
        ...(query.after === undefined ? {} : { seq: LessThan(query.after) }),
      },
      order: { seq: 'DESC' },
      take: query.limit + 1,
    });
    const page = rows.slice(0, query.limit);
    const snapshots = page.filter((row) => !isForgotten(row)).map(toSnapshot);
    return rows.length > query.limit ? { snapshots, next: page.at(-1)?.seq } : { snapshots };
  }

  /**
   * Moves the snapshot along its lifecycle from the state in which the caller saw it.
   *
   * Throws `snapshot-wrong-state` when the event is illegal there, and `concurrent-change` when the row has left that
   * state since.
   */
  async transition(
    snapshot: Snapshot,
    event: SnapshotEvent,
    changes: { reason?: Reason | null } = {},
  ): Promise<Snapshot> {
    const to = nextSnapshotState(snapshot, event);
    const { reason } = changes;
    const [row] = await returning(
      this.manager,
      SnapshotEntity,
      `UPDATE snapshots SET state = $3, writing = NULL,
        reason_code = CASE WHEN $4 THEN $5 ELSE reason_code END,
        reason_message = CASE WHEN $4 THEN $6 ELSE reason_message END,
        completed_at = CASE WHEN $3 = 'completed' THEN coalesce(completed_at, now()) ELSE completed_at END,
        deleted_at = CASE WHEN $3 = 'deleted' THEN now() END,
        updated_at = now()
      WHERE id = $1 AND state = $2 RETURNING *`,
      [snapshot.id, snapshot.state, to, reason !== undefined, reason?.code ?? null, reason?.message ?? null],
    );
    if (row) return toSnapshot(row);
    throw changedSince(snapshot);
  }

  /** Keeps what a node measured; what is not of a row here is left out. */
  recordUsage(usage: readonly MeasuredUsage[], measuredAt: string): Promise<void> {
    return recordUsage(this.manager, 'snapshots', usage, measuredAt);
  }

  /** Forgets snapshots deleted longer ago than the retention. Returns how many. */
  async purgeDeleted(limit = 1000): Promise<number> {
    const rows: object[] = await this.manager.query(
      `WITH changed AS (DELETE FROM snapshots WHERE id = ANY (ARRAY(
         SELECT id FROM snapshots WHERE state = 'deleted' AND deleted_at < now() - $1 * interval '1 millisecond'
         ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id) SELECT id FROM changed`,
      [DELETED_SNAPSHOT_RETENTION_MS, limit],
    );
    return rows.length;
  }
}

function isForgotten(row: SnapshotEntity): boolean {
  return row.deletedAt !== null && row.deletedAt.getTime() < Date.now() - DELETED_SNAPSHOT_RETENTION_MS;
}

function foundOrThrow(snapshot: Snapshot | undefined, id: SnapshotId): Snapshot {
  if (snapshot) return snapshot;
  throw new DomainError('snapshot-not-found', { message: `There is no snapshot ${id}.` });
}

function changedSince({ id, state, writing }: Snapshot): DomainError {
  return new DomainError('concurrent-change', {
    message: `Snapshot ${id} is no longer ${writing ?? state}. Look at it again and repeat.`,
    currentState: state,
  });
}

function toSnapshot(row: SnapshotEntity): Snapshot {
  return {
    id: row.id,
    projectId: row.projectId,
    volumeId: row.volumeId ?? undefined,
    parentSnapshotId: row.parentSnapshotId ?? undefined,
    writing: row.writing ?? undefined,
    progress: row.progress ?? undefined,
    groupId: row.groupId ?? undefined,
    name: row.name ?? undefined,
    description: row.description,
    tags: row.tags,
    sizeBytes: row.sizeBytes,
    state: row.state,
    reason: row.reasonCode === null ? undefined : { code: row.reasonCode, message: row.reasonMessage ?? '' },
    nodeId: row.nodeId ?? undefined,
    poolId: row.poolId ?? undefined,
    usage: usageOf(row),
    createdAt: row.createdAt,
    updatedAt: row.updatedAt,
    completedAt: row.completedAt ?? undefined,
    deletedAt: row.deletedAt ?? undefined,
  };
}
