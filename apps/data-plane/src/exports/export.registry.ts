// Which volumes this node has and which of them it serves. Every verb is idempotent and safe to repeat
// after a crash at any step:
//
//   put export:     remember (fence + export) -> attach, listen   a crash between them: boot listens
//   put limits:     remember -> set                               a crash between them: boot sets them
//   delete export:  stop listening, detach -> forget, close fence  a crash between them: boot listens again, the verb is repeated
//   revert:         revert -> close the fence                      a crash between them: the verb is repeated, nobody wrote since
//   delete volume:  remember the deletion -> remove files          a crash between them: the verb is repeated
//
// Verbs of one volume run one after the other; volumes do not wait for each other.
import {
  AgentError,
  type AgentErrorCode,
  type AgentExport,
  type AgentVolume,
  type DeleteExport,
  type PutExport,
  type PutExportLimits,
  type PutRevert,
  type PutSize,
  type PutVolume,
} from '@cairn/agent';
import { isId, noFaultPoints, type FaultPoints, type VolumeId } from '@cairn/domain';
import type { SwitchHeads, VolumeRecord } from '@cairn/storage';
import { limitsOf } from './export-limits.js';
import { ExportRestore } from './export-restore.js';
import { KeyedQueue } from './keyed-queue.js';
import type { ExportReactor, ExportRegistryParts, Predecessor, VolumePool } from './registry-parts.js';
import { ServedExports } from './served-exports.js';
import { agentErrorOf } from './storage-refusals.js';
import type { VolumeState, VolumeStates } from './volume-states.js';

/** How long the node refuses late calls for a volume it deleted; operations end within a day. */
const rememberDeletedMs = 7 * 24 * 3600 * 1000;

/** The volumes and exports of the node. */
export class ExportRegistry {
  /** For snapshots of volumes that are served: lets their rings go over to new heads. */
  readonly switchHeads: SwitchHeads;

  private readonly queue = new KeyedQueue();
  private readonly served: ServedExports;
  private readonly restoring: ExportRestore;
  private readonly pool: VolumePool;
  private readonly reactor: ExportReactor;
  private readonly states: VolumeStates;
  private readonly faultPoints: FaultPoints;

  constructor({ pool, reactor, states, settings, faultPoints }: ExportRegistryParts) {
    this.pool = pool;
    this.reactor = reactor;
    this.states = states;
    this.faultPoints = faultPoints ?? noFaultPoints;
    this.served = new ServedExports(pool, reactor, settings);
    this.switchHeads = this.served.switchHeads;
    this.restoring = new ExportRestore({ pool, reactor, states }, this.served, this.queue);
  }

  /**
   * Serves what was exported before the restart, or what a predecessor serves still. One export that fails is reported,
   * the others serve. Rejects only when the predecessor gives up, and then this process must end.
   */
  async restore(predecessor?: Predecessor): Promise<void> {
    await this.states.forgetDeletedBefore(new Date(Date.now() - rememberDeletedMs));
    await this.restoring.run(predecessor);
  }

  /** See AgentClient.putVolume. */
  putVolume(volumeId: VolumeId, request: PutVolume): Promise<AgentVolume> {
    return this.verb(volumeId, 'storage-failed', async () => {
      this.refuseDeleted(volumeId);
      return this.volumeOf(volumeId, await this.make(volumeId, request));
    });
  }

  /** See AgentClient.putSize. */
  putSize(volumeId: VolumeId, { sizeBytes }: PutSize): Promise<AgentVolume> {
    return this.verb(volumeId, 'storage-failed', async () => {
      const before = this.recordOf(volumeId);
      if (sizeBytes < before.sizeBytes) {
        const message = `${volumeId} has ${before.sizeBytes} bytes and never shrinks`;
        throw new AgentError('volume-size-mismatch', message);
      }
      const record = await this.pool.grow(volumeId, sizeBytes);
      // Told also when it has the size already: a crash may have come before the guest was told.
      if ((await this.reactor.status(volumeId)) !== undefined) {
        await this.reactor.resizeExport(volumeId, sizeBytes);
      }
      return this.volumeOf(volumeId, record);
    });
  }

  /** See AgentClient.putRevert. */
  putRevert(volumeId: VolumeId, { snapshotId, generation }: PutRevert): Promise<AgentVolume> {
    return this.verb(volumeId, 'storage-failed', async () => {
      const record = this.recordOf(volumeId);
      const before = this.stateOf(volumeId);
      if (generation < before.generation) throw stale(before, generation);
      // Done already: what was written since must stay.
      if (generation === before.closedGeneration) return this.volumeOf(volumeId, record);
      if (before.export !== undefined) {
        throw new AgentError('volume-exported', `${volumeId} is exported for ${before.export.attachmentId}`);
      }
      const reverted = await this.pool.clones.revert(volumeId, snapshotId);
      await this.states.put({ ...before, generation, closedGeneration: generation });
      return this.volumeOf(volumeId, reverted);
    });
  }

  /** Throws `volume-not-found`. */
  async getVolume(volumeId: VolumeId): Promise<AgentVolume> {
    try {
      return await this.volumeOf(volumeId, this.recordOf(volumeId));
    } catch (error) {
      throw agentErrorOf(error, 'storage-failed');
    }
  }

  /** Every volume of the pool. */
  listVolumes(): Promise<AgentVolume[]> {
    return Promise.all(
      this.pool
        .list()
        .flatMap((record) => (isId('vol', record.id) ? [this.volumeOf(record.id, record)] : [])),
    );
  }

  /** See AgentClient.deleteVolume. */
  deleteVolume(volumeId: VolumeId): Promise<void> {
    return this.verb(volumeId, 'storage-failed', async () => {
      const state = this.stateOf(volumeId);
      if (state.export !== undefined) {
        throw new AgentError('volume-exported', `${volumeId} is exported for ${state.export.attachmentId}`);
      }
      if (state.deletedAt === undefined)
        await this.states.put({ ...state, deletedAt: new Date().toISOString() });
      this.faultPoints.reach('data-plane.after-remember');
      await this.pool.delete(volumeId);
      await this.states.forgetDeletedBefore(new Date(Date.now() - rememberDeletedMs));
    });
  }

  /** See AgentClient.putExport. */
  putExport(volumeId: VolumeId, request: PutExport): Promise<AgentExport> {
    return this.verb(volumeId, 'export-failed', async () => {
      this.refuseDeleted(volumeId);
      this.recordOf(volumeId);
      const before = this.stateOf(volumeId);
      refuseStale(before, request);
      const { attachmentId, generation, readOnly, numQueues } = request;

      let persisted = before.export;
      if (persisted === undefined || generation > before.generation) {
        // A newer generation says that the older attachment is over, whoever still uses it.
        if (persisted !== undefined) await this.served.stop(volumeId);
        this.served.forgetLoss(volumeId);
        persisted = { attachmentId, readOnly, numQueues };
        await this.states.put({ ...before, generation, export: persisted });
        this.faultPoints.reach('data-plane.after-remember');
      }
      if ((await this.reactor.status(volumeId)) === undefined) await this.served.listen(volumeId, persisted);
      return this.served.describe(this.stateOf(volumeId), persisted, await this.reactor.status(volumeId));
    });
  }

  /** See AgentClient.putExportLimits. */
  putExportLimits(volumeId: VolumeId, { generation, limits }: PutExportLimits): Promise<AgentExport> {
    return this.verb(volumeId, 'export-failed', async () => {
      const before = this.stateOf(volumeId);
      if (generation < before.generation || generation <= before.closedGeneration)
        throw stale(before, generation);
      if (before.export === undefined || generation > before.generation) {
        throw new AgentError(
          'export-not-found',
          `${volumeId} is not exported under generation ${generation} here`,
        );
      }
      const persisted = { ...before.export, limits: limitsOf(limits) };
      await this.states.put({ ...before, export: persisted });
      this.faultPoints.reach('data-plane.after-remember');
      this.reactor.limitExport(volumeId, persisted.limits);
      return this.served.describe(this.stateOf(volumeId), persisted, await this.reactor.status(volumeId));
    });
  }

  /** See AgentClient.deleteExport. */
  deleteExport(volumeId: VolumeId, request: DeleteExport): Promise<void> {
    return this.verb(volumeId, 'export-failed', async () => {
      const before = this.stateOf(volumeId);
      const { generation, force } = request;
      if (generation < before.generation) throw stale(before, generation);
      if (before.export !== undefined) {
        const status = await this.reactor.status(volumeId);
        if (status?.connected === true && !force) {
          throw new AgentError('export-busy', `a front-end is connected to the export of ${volumeId}`);
        }
        await this.served.stop(volumeId);
        const loss = this.served.lossOf(volumeId);
        if (loss !== undefined && !force) {
          throw new AgentError('export-failed', `${volumeId}: ${loss}; detach by force to go on without it`);
        }
        this.served.forget(volumeId);
      }
      if (before.export === undefined && before.closedGeneration >= generation) return;
      if (this.pool.find(volumeId) === undefined && before.generation === 0) return;
      await this.states.put({ ...before, generation, closedGeneration: generation, export: undefined });
    });
  }

  /** Every export that is remembered, served or not. */
  async listExports(): Promise<AgentExport[]> {
    const statuses = new Map((await this.reactor.statuses()).map((status) => [status.id, status]));
    return this.states
      .exported()
      .map(({ state, persisted }) => this.served.describe(state, persisted, statuses.get(state.volumeId)));
  }

  private make(volumeId: VolumeId, { sizeBytes, source }: PutVolume): Promise<VolumeRecord> {
    if (source === undefined) return this.pool.create({ volumeId, sizeBytes });
    const { snapshotId, volumeId: sourceVolumeId } = source;
    if (snapshotId !== undefined) return this.pool.clones.fromSnapshot({ volumeId, snapshotId, sizeBytes });
    const { switchHeads } = this;
    return this.pool.clones.ofVolume({ volumeId, sourceVolumeId, sizeBytes }, { switchHeads });
  }

  private verb<Value>(
    volumeId: VolumeId,
    fallback: AgentErrorCode,
    task: () => Promise<Value>,
  ): Promise<Value> {
    return this.queue.run(volumeId, async () => {
      try {
        const answer = await task();
        this.faultPoints.reach('data-plane.before-answer');
        return answer;
      } catch (error) {
        throw agentErrorOf(error, fallback);
      }
    });
  }

  private stateOf(volumeId: VolumeId): VolumeState {
    return this.states.find(volumeId) ?? { volumeId, generation: 0, closedGeneration: 0 };
  }

  private recordOf(volumeId: VolumeId): VolumeRecord {
    const record = this.pool.find(volumeId);
    if (record === undefined) throw new AgentError('volume-not-found', `this node has no volume ${volumeId}`);
    return record;
  }

  private refuseDeleted(volumeId: VolumeId): void {
    const deletedAt = this.states.find(volumeId)?.deletedAt;
    if (deletedAt !== undefined)
      throw new AgentError('volume-deleted', `${volumeId} was deleted at ${deletedAt}`);
  }

  private async volumeOf(id: VolumeId, { sizeBytes, createdAt }: VolumeRecord): Promise<AgentVolume> {
    return { id, sizeBytes, createdAt, allocatedBytes: await this.pool.allocatedBytes(id) };
  }
}

/** Throws `stale-generation` unless the request is newer than all before it, or the very one that is exported. */
function refuseStale(state: VolumeState, { generation, attachmentId }: PutExport): void {
  const over = generation < state.generation || generation <= state.closedGeneration;
  const taken =
    generation === state.generation &&
    state.export !== undefined &&
    state.export.attachmentId !== attachmentId;
  if (over || taken) throw stale(state, generation);
}

function stale({ volumeId, generation, closedGeneration }: VolumeState, asked: number): AgentError {
  const newest = generation === closedGeneration ? `${generation} (closed)` : String(generation);
  return new AgentError(
    'stale-generation',
    `generation ${asked} of ${volumeId} is over: the newest here is ${newest}`,
  );
}
