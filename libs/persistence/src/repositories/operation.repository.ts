import {
  DomainError,
  newId,
  operationDeadlineMs,
  type AttachmentId,
  type Operation,
  type OperationId,
  type OperationIntent,
  type OperationKind,
  type ProjectId,
  type Reason,
  type SnapshotId,
  type VolumeId,
} from '@cairn/domain';
import { In, type EntityManager } from 'typeorm';
import { OperationEntity } from '../entities/operation.entity.js';
import { returning } from '../hydrate.js';

// All times are the database's: hosts' clocks may disagree, a lease must not.
// A row's sweep_at says when the sweeper should look at it if nobody has finished it by then:
// after a grace for the nudge, at the end of the lease, when a retry is due, at the deadline.

/** How long the sweeper leaves a new operation to its nudge. */
const NUDGE_GRACE_MS = 2_000;
/** How long the sweeper leaves an operation after nudging it again. */
const RENUDGE_GRACE_MS = 5_000;

/** Who claims, and for how long before others may. */
export interface ClaimOptions {
  workerId: string;
  leaseMs: number;
}

/** Operations: written once, claimed by lease, ended once. */
export class OperationRepository {
  constructor(private readonly manager: EntityManager) {}

  /**
   * Writes down the intent, or finds the operation that already has its client token.
   *
   * Insert it before anything else in the transaction: of two requests that race with one token the
   * second waits here for the first, and then gets `isNew: false` and the first one's operation,
   * which the caller must compare (`sameRequestOrThrow`).
   */
  async insert(intent: OperationIntent): Promise<{ operation: Operation; isNew: boolean }> {
    const id = newId('op');
    const [row] = await returning(
      this.manager,
      OperationEntity,
      `INSERT INTO operations (id, project_id, kind, params, volume_id, attachment_id, snapshot_id, group_id,
         client_token, request_digest, state, deadline, sweep_at)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'pending',
         now() + $11 * interval '1 millisecond', now() + $12 * interval '1 millisecond')
       ON CONFLICT (project_id, client_token) WHERE client_token IS NOT NULL DO NOTHING RETURNING *`,
      [
        id,
        intent.projectId,
        intent.kind,
        JSON.stringify(intent.params),
        intent.target.volumeId ?? null,
        intent.target.attachmentId ?? null,
        intent.target.snapshotId ?? null,
        intent.target.groupId ?? null,
        intent.clientToken ?? null,
        intent.requestDigest,
        operationDeadlineMs[intent.kind],
        NUDGE_GRACE_MS,
      ],
    );
    if (row) return { operation: toOperation(row), isNew: true };
    const earlier =
      intent.clientToken && (await this.findByClientToken(intent.projectId, intent.clientToken));
    if (!earlier) throw new Error(`Inserting ${id} returned no row and no earlier one.`);
    return { operation: earlier, isNew: false };
  }

  /** The operation that used this token in the project, whatever its kind, or `undefined`. */
  async findByClientToken(projectId: ProjectId, clientToken: string): Promise<Operation | undefined> {
    const row = await this.manager.findOneBy(OperationEntity, { projectId, clientToken });
    return row ? toOperation(row) : undefined;
  }

  /** A project's operation. Throws `operation-not-found`. */
  async get(projectId: ProjectId, id: OperationId): Promise<Operation> {
    const row = await this.manager.findOneBy(OperationEntity, { id, projectId });
    if (row) return toOperation(row);
    throw new DomainError('operation-not-found', { message: `There is no operation ${id}.` });
  }

  /** Any project's operation, or `undefined`. */
  async findById(id: OperationId): Promise<Operation | undefined> {
    const row = await this.manager.findOneBy(OperationEntity, { id });
    return row ? toOperation(row) : undefined;
  }

  /** The newest operation of this kind on the volume, the volume's attachment or the snapshot, or `undefined`. */
  async findLatest(
    target: { volumeId: VolumeId; attachmentId?: AttachmentId } | { snapshotId: SnapshotId },
    kind: OperationKind,
  ): Promise<Operation | undefined> {
    const row = await this.manager.findOne(OperationEntity, {
      where: { ...target, kind },
      order: { createdAt: 'DESC' },
    });
    return row ? toOperation(row) : undefined;
  }

  /** Turns a detach that is on its way into a forced one, with a new deadline; a finished one stays as it is. */
  async forceDetach(id: OperationId): Promise<Operation | undefined> {
    const [row] = await returning(
      this.manager,
      OperationEntity,
      `UPDATE operations SET params = params || '{"force": true}', not_before = now(), sweep_at = least(sweep_at, now()),
         deadline = CASE WHEN params @> '{"force": true}' THEN deadline ELSE now() + $2 * interval '1 millisecond' END,
         updated_at = now()
       WHERE id = $1 AND kind = 'detach-volume' AND state IN ('pending', 'running') RETURNING *`,
      [id, operationDeadlineMs['detach-volume']],
    );
    return row && toOperation(row);
  }

  /**
   * Takes the operation for one worker, or `undefined` when there is nothing to take: it has ended,
   * its retry is not due, or another worker's lease on it still runs.
   *
   * An operation past its deadline is claimable even if its retry is not due; the caller ends it.
   * The claim is what the returned value names (`workerId` and `attempts`): pass it to the methods below.
   */
  async claim(id: OperationId, { workerId, leaseMs }: ClaimOptions): Promise<Operation | undefined> {
    const [row] = await returning(
      this.manager,
      OperationEntity,
      `UPDATE operations SET state = 'running', attempts = attempts + 1, worker_id = $2,
         lease_until = now() + $3 * interval '1 millisecond', sweep_at = now() + $3 * interval '1 millisecond',
         updated_at = now()
       WHERE id = $1 AND (
         (state = 'pending' AND (not_before <= now() OR deadline <= now()))
         OR (state = 'running' AND lease_until < now()))
       RETURNING *`,
      [id, workerId, leaseMs],
    );
    return row && toOperation(row);
  }

  /** Lengthens the lease; `false` when the claim is lost and the worker must stop. */
  async renewLease(claimed: Operation, leaseMs: number): Promise<boolean> {
    const rows = await this.changeClaimed(
      claimed,
      `lease_until = now() + $4 * interval '1 millisecond', sweep_at = now() + $4 * interval '1 millisecond'`,
      [leaseMs],
    );
    return rows.length > 0;
  }

  /** Notes how far it is (0 to 100). Throws `lease-lost`. */
  async recordProgress(claimed: Operation, progress: number): Promise<Operation> {
    return this.oneClaimed(claimed, 'progress = $4', [Math.round(progress)]);
  }

  /** Gives the operation back for another try after a delay, with the reason for it. Throws `lease-lost`. */
  async retryLater(claimed: Operation, retry: { delayMs: number; reason: Reason }): Promise<Operation> {
    return this.oneClaimed(
      claimed,
      `state = 'pending', lease_until = NULL, worker_id = NULL,
       not_before = now() + $4 * interval '1 millisecond',
       sweep_at = least(now() + $4 * interval '1 millisecond', greatest(deadline, now())),
       error_code = $5, error_message = $6`,
      [retry.delayMs, retry.reason.code, retry.reason.message],
    );
  }

  /** Ends it well. In the same transaction, move the volume or attachment. Throws `lease-lost`, which undoes that. */
  async succeed(claimed: Operation): Promise<Operation> {
    return this.oneClaimed(
      claimed,
      `state = 'succeeded', progress = 100, lease_until = NULL, finished_at = now(), error_code = NULL, error_message = NULL`,
      [],
    );
  }

  /** Ends it badly, with the reason. In the same transaction, move the volume or attachment. Throws `lease-lost`. */
  async fail(claimed: Operation, reason: Reason): Promise<Operation> {
    return this.oneClaimed(
      claimed,
      `state = 'failed', lease_until = NULL, finished_at = now(), error_code = $4, error_message = $5`,
      [reason.code, reason.message],
    );
  }

  /**
   * The operations that nobody attends to: nudge lost, lease expired, retry due or deadline passed.
   *
   * Each is given out to one sweeper and not again for some seconds, in which the nudge should bear fruit.
   */
  async findDue(limit: number): Promise<Operation[]> {
    const rows = await returning(
      this.manager,
      OperationEntity,
      `UPDATE operations SET sweep_at = now() + $2 * interval '1 millisecond' WHERE id = ANY (ARRAY(
         SELECT id FROM operations WHERE state IN ('pending', 'running') AND sweep_at <= now()
         ORDER BY sweep_at LIMIT $1 FOR UPDATE SKIP LOCKED))
       RETURNING *`,
      [limit, RENUDGE_GRACE_MS],
    );
    return rows.map(toOperation);
  }

  /** The unfinished operations on these volumes. */
  async listUnfinished(volumeIds: readonly VolumeId[]): Promise<Operation[]> {
    if (volumeIds.length === 0) return [];
    const rows = await this.manager.findBy(OperationEntity, {
      volumeId: In([...volumeIds]),
      state: In(['pending', 'running']),
    });
    return rows.map(toOperation);
  }

  /** Forgets operations that ended longer ago than this; their client tokens become free again. Returns how many. */
  async purgeFinished(olderThanMs: number, limit = 1000): Promise<number> {
    const rows: object[] = await this.manager.query(
      `WITH changed AS (DELETE FROM operations WHERE id = ANY (ARRAY(
         SELECT id FROM operations WHERE finished_at < now() - $1 * interval '1 millisecond'
         ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id) SELECT id FROM changed`,
      [olderThanMs, limit],
    );
    return rows.length;
  }

  /** Changes the row only while this very claim holds it: `attempts` tells two claims of one worker apart. */
  private changeClaimed(
    claimed: Operation,
    assignments: string,
    parameters: unknown[],
  ): Promise<OperationEntity[]> {
    return returning(
      this.manager,
      OperationEntity,
      `UPDATE operations SET ${assignments}, updated_at = now()
       WHERE id = $1 AND state = 'running' AND worker_id = $2 AND attempts = $3 RETURNING *`,
      [claimed.id, claimed.workerId ?? null, claimed.attempts, ...parameters],
    );
  }

  private async oneClaimed(
    claimed: Operation,
    assignments: string,
    parameters: unknown[],
  ): Promise<Operation> {
    const [row] = await this.changeClaimed(claimed, assignments, parameters);
    if (row) return toOperation(row);
    throw new DomainError('lease-lost', {
      message: `The lease on operation ${claimed.id} was lost; another worker has it or it has ended.`,
    });
  }
}

function toOperation(row: OperationEntity): Operation {
  const operation = {
    id: row.id,
    projectId: row.projectId,
    kind: row.kind,
    params: row.params,
    target: {
      volumeId: row.volumeId ?? undefined,
      attachmentId: row.attachmentId ?? undefined,
      snapshotId: row.snapshotId ?? undefined,
      groupId: row.groupId ?? undefined,
    },
    state: row.state,
    progress: row.progress,
    attempts: row.attempts,
    clientToken: row.clientToken ?? undefined,
    requestDigest: row.requestDigest,
    error: row.errorCode === null ? undefined : { code: row.errorCode, message: row.errorMessage ?? '' },
    deadline: row.deadline,
    notBefore: row.notBefore,
    workerId: row.workerId ?? undefined,
    leaseUntil: row.leaseUntil ?? undefined,
    createdAt: row.createdAt,
    updatedAt: row.updatedAt,
    finishedAt: row.finishedAt ?? undefined,
  };
  // Trusted from here: the row was written from an OperationIntent, whose params belong to its kind.
  return operation as Operation;
}
