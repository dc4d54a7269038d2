import {
  DomainError,
  isFinished,
  newId,
  requestDigest,
  requireState,
  requireUnmodified,
  requireWriting,
  sameRequestOrThrow,
  type GroupId,
  type Operation,
  type OperationIntent,
  type ProjectId,
  type Snapshot,
  type SnapshotId,
  type Tags,
  type Volume,
  type VolumeId,
} from '@cairn/domain';
import { UnitOfWork, type Repositories, type SnapshotPage, type SnapshotQuery } from '@cairn/persistence';
import { Injectable } from '@nestjs/common';
import { OperationStarter } from '../operations/operation.starter.js';

/** What snapshots of one point in time are asked to be. */
export interface CreateSnapshots {
  volumeIds: readonly VolumeId[];
  /** A group, even of one. */
  isGroup: boolean;
  name?: string;
  description?: string;
  tags?: Tags;
  clientToken?: string;
}

/** Takes, reads and deletes snapshots: rows and nudges, the worker does the rest. */
@Injectable()
export class SnapshotsService {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly starter: OperationStarter,
  ) {}

  /** One snapshot. Throws `snapshot-not-found`. */
  get(project: ProjectId, id: SnapshotId): Promise<Snapshot> {
    return this.unitOfWork.read(({ snapshots }) => snapshots.get(project, id));
  }

  /** One page of snapshots. */
  list(project: ProjectId, query: SnapshotQuery): Promise<SnapshotPage> {
    return this.unitOfWork.read(({ snapshots }) => snapshots.list(project, query));
  }

  /**
   * Starts the snapshots of volumes at one point in time, and returns before any of them is taken.
   *
   * Rows and operation commit together; a crash after that costs a delay, not the snapshots. Throws
   * `volume-wrong-state` for a volume that is not there yet or no more, `volume-busy` for one that is being changed, and `invalid-request` when they are on several
   * nodes.
   */
  async create(
    project: ProjectId,
    request: CreateSnapshots,
  ): Promise<{ operation: Operation; snapshots: Snapshot[] }> {
    const { volumeIds, isGroup, name, description = '', tags = {}, clientToken } = request;
    const digest = requestDigest({ kind: 'create-snapshot', volumeIds, isGroup, name, description, tags });
    const result = await this.unitOfWork.run(async (repositories) => {
      const { snapshots, operations } = repositories;
      const earlier = await findReplay(repositories, project, clientToken, digest);
      if (earlier) return earlier;

      const locked = await lockVolumes(repositories, project, volumeIds);
      // Looked for again under the lock: a twin of this request may have committed while we waited.
      const twin = await findReplay(repositories, project, clientToken, digest);
      if (twin) return twin;

      const groupId: GroupId | undefined = isGroup ? newId('grp') : undefined;
      const wanted = placedTogether(locked).map((volume) => ({ id: newId('snap'), volume }));
      const { operation, isNew } = await operations.insert({
        projectId: project,
        kind: 'create-snapshot',
        params: { snapshotIds: wanted.map(({ id }) => id) },
        target: isGroup ? { groupId } : { volumeId: volumeIds[0], snapshotId: wanted[0]?.id },
        clientToken,
        requestDigest: digest,
      });
      // The token was free a moment ago and no twin of this request can be past the lock: it is another request's.
      if (!isNew) sameRequestOrThrow(operation, { requestDigest: '' });
      const taken: Snapshot[] = [];
      for (const { id, volume } of wanted) {
        const { sizeBytes, nodeId, poolId } = volume;
        const own = { id, projectId: project, volumeId: volume.id, groupId, name, description, tags };
        taken.push(await snapshots.insert({ ...own, sizeBytes, nodeId, poolId }));
      }
      return { operation, snapshots: taken };
    });
    await this.starter.start(result.operation);
    return result;
  }

  /**
   * Starts the deletion of a snapshot, or answers with the deletion that is on its way or done. What depends on it stays.
   *
   * One that is written from blocks is cancelled. Throws `snapshot-wrong-state` while it is being taken, `snapshot-busy`
   * while it is being started, `snapshot-in-use` while something is being made of it or a volume goes back to it.
   */
  async delete(
    project: ProjectId,
    snapshotId: SnapshotId,
    clientToken: string | undefined,
  ): Promise<{ operation: Operation; snapshot?: Snapshot }> {
    const digest = requestDigest({ kind: 'delete-snapshot', snapshotId });
    const result = await this.unitOfWork.run(async ({ volumes, snapshots, operations }) => {
      const earlier =
        clientToken === undefined ? undefined : await operations.findByClientToken(project, clientToken);
      if (earlier) {
        sameRequestOrThrow(earlier, { requestDigest: digest });
        return { operation: earlier, snapshot: await snapshots.find(project, snapshotId) };
      }
      const snapshot = await snapshots.getForUpdate(project, snapshotId);
      if (snapshot.state === 'deleting' || snapshot.state === 'deleted') {
        const operation = await operations.findLatest({ snapshotId }, 'delete-snapshot');
        if (operation) return { operation, snapshot };
        throw new Error(`Snapshot ${snapshotId} is ${snapshot.state}, but no operation deletes it.`);
      }
      const revert = await operations.findLatest({ snapshotId }, 'revert-volume');
      if (
        (revert && !isFinished(revert.state)) ||
        (await volumes.isBeingCloned(snapshotId)) ||
        (await snapshots.isBeingExtended(snapshotId))
      ) {
        throw new DomainError('snapshot-in-use', {
          message: `Something is being made of snapshot ${snapshotId}, or goes back to it. Try again in a moment.`,
        });
      }
      // A completion under way may be cancelled, too: it finds nothing to complete.
      if (snapshot.writing === 'starting') requireWriting(snapshot, 'open');
      const event = snapshot.writing === undefined ? 'delete' : 'cancel';
      const deleting = await snapshots.transition(snapshot, event, { reason: null });
      const { volumeId } = snapshot;
      const intent: OperationIntent = {
        projectId: project,
        kind: 'delete-snapshot',
        params: {},
        target: { volumeId, snapshotId },
        clientToken,
        requestDigest: digest,
      };
      const { operation, isNew } = await operations.insert(intent);
      if (!isNew) sameRequestOrThrow(operation, { requestDigest: '' });
      return { operation, snapshot: deleting };
    });
    await this.starter.start(result.operation);
    return result;
  }
}

/** What an earlier request under the same token began, or `undefined`. Throws `idempotent-parameter-mismatch`. */
async function findReplay(
  { operations, snapshots }: Repositories,
  project: ProjectId,
  clientToken: string | undefined,
  digest: string,
): Promise<{ operation: Operation; snapshots: Snapshot[] } | undefined> {
  const operation =
    clientToken === undefined ? undefined : await operations.findByClientToken(project, clientToken);
  if (!operation) return undefined;
  sameRequestOrThrow(operation, { requestDigest: digest });
  if (operation.kind !== 'create-snapshot') throw new Error(`${operation.id} has the digest of a snapshot.`);
  return { operation, snapshots: await snapshots.listById(operation.params.snapshotIds) };
}

/** Locks the volumes, in an order that cannot deadlock, and returns them in the order asked for. */
async function lockVolumes(
  { volumes }: Repositories,
  project: ProjectId,
  ids: readonly VolumeId[],
): Promise<Volume[]> {
  const locked = new Map<VolumeId, Volume>();
  for (const id of ids.toSorted()) locked.set(id, await volumes.getForUpdate(project, id));
  return ids.flatMap((id) => locked.get(id) ?? []);
}

type PlacedVolume = Volume & Required<Pick<Volume, 'nodeId' | 'poolId'>>;

/** The volumes, as those that have bytes, all on one node. */
function placedTogether(volumes: readonly Volume[]): PlacedVolume[] {
  const placed = volumes.map((volume) => {
    requireState(volume, ['available', 'in-use']);
    requireUnmodified(volume);
    const { id, nodeId, poolId } = volume;
    if (nodeId !== undefined && poolId !== undefined) return { ...volume, nodeId, poolId };
    throw new Error(`Volume ${id} is available and has no place.`);
  });
  if (new Set(placed.map(({ nodeId }) => nodeId)).size > 1) {
    const where = placed.map(({ id, nodeId }) => `${id} on ${nodeId}`).join(', ');
    const faults = [{ field: 'volumeIds', message: 'must be volumes of one node' }];
    throw new DomainError('invalid-request', {
      message: `Only volumes of one node stand still at one moment: ${where}.`,
      faults,
    });
  }
  return placed;
}
