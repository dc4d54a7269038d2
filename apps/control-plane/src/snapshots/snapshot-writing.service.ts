import {
  DATA_TICKET_MS,
  DataTickets,
  DomainError,
  newId,
  requestDigest,
  requireCompleted,
  requirePlaced,
  requireWriting,
  sameRequestOrThrow,
  WRITING_TIMEOUT_MINUTES,
  type Operation,
  type ProjectId,
  type Snapshot,
  type SnapshotId,
  type Tags,
} from '@cairn/domain';
import { UnitOfWork, type Repositories } from '@cairn/persistence';
import { Injectable } from '@nestjs/common';
import { OperationStarter } from '../operations/operation.starter.js';

/** What a snapshot that is written from blocks is asked to be. */
export interface StartSnapshot {
  sizeBytes: number;
  parentSnapshotId?: SnapshotId;
  timeoutMinutes?: number;
  name?: string;
  description?: string;
  tags?: Tags;
  clientToken?: string;
}

/** What came of a request. */
export interface Writing {
  operation: Operation;
  snapshot?: Snapshot;
}

/** Snapshots that are written from blocks: begun and completed here, filled on their node by ticket. */
@Injectable()
export class SnapshotWritingService {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly starter: OperationStarter,
    private readonly tickets: DataTickets,
  ) {}

  /**
   * Begins a snapshot; blocks can be put when the operation has succeeded.
   *
   * Throws `snapshot-not-found` and `snapshot-wrong-state` for the parent, `invalid-request` when that is larger.
   */
  async start(project: ProjectId, request: StartSnapshot): Promise<Writing> {
    const { sizeBytes, parentSnapshotId, name, description = '', tags = {}, clientToken } = request;
    const { timeoutMinutes = WRITING_TIMEOUT_MINUTES.fallback } = request;
    const asked = { sizeBytes, parentSnapshotId, timeoutMinutes, name, description, tags };
    const digest = requestDigest({ kind: 'start-snapshot', ...asked });
    return this.begin({ project, clientToken, digest }, async (repositories, replay) => {
      const { snapshots, operations } = repositories;
      const parent =
        parentSnapshotId === undefined ? undefined : await snapshots.getForUpdate(project, parentSnapshotId);
      // Looked for again under the lock: a twin of this request may have committed while we waited.
      const twin = parent && (await replay());
      if (twin) return twin;
      if (parent) requireExtendable(parent, sizeBytes);
      const id = newId('snap');
      const { operation, isNew } = await operations.insert({
        projectId: project,
        kind: 'start-snapshot',
        params: { timeoutMinutes, ...(parentSnapshotId === undefined ? {} : { parentSnapshotId }) },
        target: { snapshotId: id },
        clientToken,
        requestDigest: digest,
      });
      if (!isNew) return answerOf(repositories, project, operation, digest);
      const own = { id, projectId: project, name, description, tags, sizeBytes, parentSnapshotId };
      const place = parent && requirePlaced(parent);
      return { operation, snapshot: await snapshots.insert({ ...own, ...place, writing: 'starting' }) };
    });
  }

  /**
   * Ends the writing of a snapshot; it is completed when the operation has succeeded, and still open when that fails with
   * `checksum-mismatch`. Throws `snapshot-not-found`, `snapshot-wrong-state` and `snapshot-busy`.
   */
  async complete(
    project: ProjectId,
    request: { snapshotId: SnapshotId; changedBlocks: number; checksum?: string; clientToken?: string },
  ): Promise<Writing> {
    const { snapshotId, changedBlocks, checksum, clientToken } = request;
    const digest = requestDigest({ kind: 'complete-snapshot', snapshotId, changedBlocks, checksum });
    return this.begin({ project, clientToken, digest }, async ({ snapshots, operations }, replay) => {
      const snapshot = await snapshots.getForUpdate(project, snapshotId);
      const twin = await replay();
      if (twin) return twin;
      const completing = await snapshots.moveWriting(snapshot, 'complete');
      const { operation, isNew } = await operations.insert({
        projectId: project,
        kind: 'complete-snapshot',
        params: { changedBlocks, ...(checksum === undefined ? {} : { checksum }) },
        target: { snapshotId },
        clientToken,
        requestDigest: digest,
      });
      // The token was free a moment ago and no twin of this request can be past the lock: it is another request's.
      if (!isNew) sameRequestOrThrow(operation, { requestDigest: '' });
      return { operation, snapshot: completing };
    });
  }

  /** Where the snapshot's blocks are put, and until when. Throws as `complete`. */
  async uploadAddress(project: ProjectId, snapshotId: SnapshotId): Promise<{ url: string; expiresAt: Date }> {
    const { agentUrl } = await this.unitOfWork.read(async ({ nodes, snapshots }) => {
      const snapshot = await snapshots.get(project, snapshotId);
      requireWriting(snapshot, 'open');
      return nodes.get(requirePlaced(snapshot).nodeId);
    });
    const expiresAt = Date.now() + DATA_TICKET_MS;
    const ticket = this.tickets.seal({ access: 'write', snapshotId, expiresAt });
    return { url: new URL(`/v1/data/${ticket}/blocks`, agentUrl).href, expiresAt: new Date(expiresAt) };
  }

  private async begin(
    request: { project: ProjectId; clientToken: string | undefined; digest: string },
    work: (repositories: Repositories, replay: () => Promise<Writing | undefined>) => Promise<Writing>,
  ): Promise<Writing> {
    const { project, clientToken, digest } = request;
    const result = await this.unitOfWork.run(async (repositories) => {
      const replay = async (): Promise<Writing | undefined> => {
        const { operations } = repositories;
        const earlier =
          clientToken === undefined ? undefined : await operations.findByClientToken(project, clientToken);
        return earlier && answerOf(repositories, project, earlier, digest);
      };
      return (await replay()) ?? (await work(repositories, replay));
    });
    await this.starter.start(result.operation);
    return result;
  }
}

/** What an operation under the token of a request answers. Throws `idempotent-parameter-mismatch`. */
async function answerOf(
  { snapshots }: Repositories,
  project: ProjectId,
  operation: Operation,
  digest: string,
): Promise<Writing> {
  sameRequestOrThrow(operation, { requestDigest: digest });
  const { snapshotId } = operation.target;
  return { operation, snapshot: snapshotId && (await snapshots.find(project, snapshotId)) };
}

function requireExtendable(parent: Snapshot, sizeBytes: number): void {
  requireCompleted(parent);
  if (sizeBytes >= parent.sizeBytes) return;
  throw new DomainError('invalid-request', {
    message: 'The request is not valid: sizeBytes. See errors.',
    faults: [{ field: 'sizeBytes', message: `must not be less than the ${parent.sizeBytes} of the parent` }],
  });
}
