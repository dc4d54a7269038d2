// Which volumes this node has and which of them it serves. Every verb is idempotent and safe to repeat
// after a crash at any step:
//
//   put export:     remember (fence + export) -> attach, listen   a crash between them: boot listens
//   put limits:     remember -> set                               a crash between them: boot sets them
//   delete export:  stop listening, detach -> forget, close fence  a crash between them: boot listens again, the verb is repeated
//   revert:         revert -> close the fence                      a crash between them: the verb is repeated, nobody wrote since
//   delete volume:  remember the deletion -> remove files          a crash between them: the verb is repeated
//
// A volume is attached in its pool as long as it is served, so that the pool tells of every change of its chain.
// Verbs of one volume run one after the other; volumes do not wait for each other.
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import {
  AgentError,
  type AgentErrorCode,
  type AgentExport,
  type AgentExportState,
  type AgentVolume,
  type DeleteExport,
  type PutExport,
  type PutExportLimits,
  type PutRevert,
  type PutSize,
  type PutVolume,
} from '@cairn/agent';
import { isId, noFaultPoints, type FaultPoints, type VolumeId } from '@cairn/domain';
import type { ExportStatus, Handed, Reactors } from '@cairn/block-export';
import type { SwitchHeads, VolumeChain, VolumeRecord, VolumeStore } from '@cairn/storage';
import type { Predecessor as WholePredecessor, Taken } from '../handover/handover.predecessor.js';
import { limitsOf } from './export-limits.js';
import { KeyedQueue } from './keyed-queue.js';
import { agentErrorOf } from './storage-refusals.js';
import type { PersistedExport, VolumeState, VolumeStates } from './volume-states.js';

/** The part of the volume store that verbs use. */
export type VolumePool = Pick<
  VolumeStore,
  | 'create'
  | 'clones'
  | 'find'
  | 'grow'
  | 'list'
  | 'delete'
  | 'attach'
  | 'detach'
  | 'allocatedBytes'
  | 'capacity'
  | 'poolId'
>;

/** The part of the reactor that verbs use. */
export type ExportReactor = Pick<
  Reactors,
  | 'addExport'
  | 'removeExport'
  | 'limitExport'
  | 'resizeExport'
  | 'resumeExport'
  | 'releaseExport'
  | 'switchHeads'
  | 'changeChain'
  | 'barrier'
  | 'status'
  | 'statuses'
>;

/** The part of a predecessor that a registry uses. */
export type Predecessor = Pick<WholePredecessor, 'take' | 'gone'>;

const servedElsewhere = 'the data plane that ran before has not completed all its requests yet';

/** What a registry works with. */
export interface ExportRegistryParts {
  readonly pool: VolumePool;
  readonly reactor: ExportReactor;
  readonly states: VolumeStates;
  readonly settings: ExportSettings;
  readonly faultPoints?: FaultPoints;
}

/** Where sockets go and how files are opened. */
export interface ExportSettings {
  readonly socketDirectory: string;
  readonly cache: 'direct' | 'writeback';
}

/** How long the node refuses late calls for a volume it deleted; operations end within a day. */
const rememberDeletedMs = 7 * 24 * 3600 * 1000;

/** The volumes and exports of the node. */
export class ExportRegistry {
  /** For snapshots of volumes that are served: lets their rings go over to new heads. */
  readonly switchHeads: SwitchHeads = async (switches) => {
    for (const { volumeId } of switches) this.refuseElsewhere(volumeId);
    const { frozenMicros, flushMicros } = await this.reactor.switchHeads(switches);
    const volumes = switches.map(({ volumeId }) => volumeId).join(', ');
    const [all, flush] = [frozenMicros, flushMicros].map((micros) => (micros / 1000).toFixed(1));
    this.logger.log(
      `new heads of ${volumes}: the guests waited for ${all} ms, ${flush} of them for the disk`,
    );
  };

  /** Volumes that a predecessor still serves: what they are read from may not change, and nobody else may serve them. */
  private readonly elsewhere = new Set<string>();
  private readonly logger = new Logger(ExportRegistry.name);
  private readonly queue = new KeyedQueue();
  /** Why an export that should listen does not. */
  private readonly failures = new Map<VolumeId, string>();
  /** What could not be made durable when an export closed; told until its attachment is let go of by force. */
  private readonly losses = new Map<VolumeId, string>();

  private readonly pool: VolumePool;
  private readonly reactor: ExportReactor;
  private readonly states: VolumeStates;
  private readonly settings: ExportSettings;
  private readonly faultPoints: FaultPoints;

  constructor({ pool, reactor, states, settings, faultPoints }: ExportRegistryParts) {
    this.pool = pool;
    this.reactor = reactor;
    this.states = states;
    this.settings = settings;
    this.faultPoints = faultPoints ?? noFaultPoints;
  }

  /**
   * Serves what was exported before the restart, or what a predecessor serves still. One export that fails is reported,
   * the others serve. Rejects only when the predecessor gives up, and then this process must end.
   */
  async restore(predecessor?: Predecessor): Promise<void> {
    await this.states.forgetDeletedBefore(new Date(Date.now() - rememberDeletedMs));
    await this.unlinkStaleSockets();
    const exported = this.exported();
    // What this process has served while a successor tried to take over, and failed.
    const served = new Set((await this.reactor.statuses()).map(({ id }) => id));
    let takenOver = 0;
    for (const { state, persisted } of exported) {
      const { volumeId } = state;
      const taken = predecessor ? await this.takeOver(volumeId, persisted, predecessor) : 'absent';
      if (taken === 'taken') takenOver += 1;
      else if (taken === 'kept') await this.openWhenGone(volumeId, predecessor!);
      else if (served.has(volumeId)) await this.goOnServing(volumeId);
      else await this.reopen(volumeId, persisted);
    }
    if (takenOver > 0) this.logger.log(`took over ${takenOver} of ${exported.length} exports`);
    else if (exported.length > 0)
      this.logger.log(`re-opened ${exported.length - this.failures.size} of ${exported.length} exports`);
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
        if (persisted !== undefined) await this.stopServing(volumeId);
        this.losses.delete(volumeId);
        persisted = { attachmentId, readOnly, numQueues };
        await this.states.put({ ...before, generation, export: persisted });
        this.faultPoints.reach('data-plane.after-remember');
      }
      if ((await this.reactor.status(volumeId)) === undefined) await this.listen(volumeId, persisted);
      return this.exportOf(this.stateOf(volumeId), persisted, await this.reactor.status(volumeId));
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
      return this.exportOf(this.stateOf(volumeId), persisted, await this.reactor.status(volumeId));
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
        await this.stopServing(volumeId);
        const loss = this.losses.get(volumeId);
        if (loss !== undefined && !force) {
          throw new AgentError('export-failed', `${volumeId}: ${loss}; detach by force to go on without it`);
        }
        this.losses.delete(volumeId);
        this.failures.delete(volumeId);
      }
      if (before.export === undefined && before.closedGeneration >= generation) return;
      if (this.pool.find(volumeId) === undefined && before.generation === 0) return;
      await this.states.put({ ...before, generation, closedGeneration: generation, export: undefined });
    });
  }

  /** Every export that is remembered, served or not. */
  async listExports(): Promise<AgentExport[]> {
    const statuses = new Map((await this.reactor.statuses()).map((status) => [status.id, status]));
    return this.exported().map(({ state, persisted }) =>
      this.exportOf(state, persisted, statuses.get(state.volumeId)),
    );
  }

  private make(volumeId: VolumeId, { sizeBytes, source }: PutVolume): Promise<VolumeRecord> {
    if (source === undefined) return this.pool.create({ volumeId, sizeBytes });
    const { snapshotId, volumeId: sourceVolumeId } = source;
    if (snapshotId !== undefined) return this.pool.clones.fromSnapshot({ volumeId, snapshotId, sizeBytes });
    const { switchHeads } = this;
    return this.pool.clones.ofVolume({ volumeId, sourceVolumeId, sizeBytes }, { switchHeads });
  }

  private async reopen(volumeId: VolumeId, persisted: PersistedExport): Promise<void> {
    try {
      await this.listen(volumeId, persisted);
    } catch (error) {
      this.logger.error(
        `export of ${volumeId} could not be re-opened: ${agentErrorOf(error, 'export-failed').message}`,
      );
    }
  }

  private takeOver(volumeId: VolumeId, persisted: PersistedExport, from: Predecessor): Promise<Taken> {
    return from.take(volumeId, {
      adopt: (handed) => this.listen(volumeId, persisted, handed),
      resume: () => this.reactor.resumeExport(volumeId),
      drop: () => this.reactor.releaseExport(volumeId),
    });
  }

  /** What the predecessor could not hand over it drains and closes before it ends; only then may anybody serve it. */
  private async openWhenGone(volumeId: VolumeId, predecessor: Predecessor): Promise<void> {
    this.failures.set(volumeId, servedElsewhere);
    this.elsewhere.add(volumeId);
    const refuse = (): Promise<never> => Promise.reject(new Error(`${volumeId}: ${servedElsewhere}`));
    // What the pool does not understand it changes for nobody.
    await this.pool.attach(volumeId, { barrier: refuse, chainChanged: refuse }).catch((error: unknown) => {
      this.logger.error(`${volumeId}: ${agentErrorOf(error, 'export-failed').message}`);
    });
    void predecessor.gone().then(() =>
      this.queue.run(volumeId, async () => {
        this.elsewhere.delete(volumeId);
        const persisted = this.states.find(volumeId)?.export;
        if (persisted !== undefined) await this.reopen(volumeId, persisted);
      }),
    );
  }

  /** Served all the time, while a successor that has died may have changed what the volume is read from. */
  private async goOnServing(volumeId: VolumeId): Promise<void> {
    await this.reactor.changeChain(await this.attach(volumeId));
  }

  private refuseElsewhere(volumeId: string): void {
    if (this.elsewhere.has(volumeId)) throw new AgentError('volume-busy', `${volumeId}: ${servedElsewhere}`);
  }

  private async listen(volumeId: VolumeId, persisted: PersistedExport, handed?: Handed): Promise<void> {
    try {
      // One whose removal took too long may have gone by itself since then.
      await this.stopServing(volumeId);
      const chain = await this.attach(volumeId);
      const spec = {
        id: volumeId,
        filePath: chain.layers.at(-1)!.path,
        chain,
        socketPath: this.socketPathOf(volumeId),
        socketIsOurs: true,
        readOnly: persisted.readOnly,
        numQueues: persisted.numQueues,
        cache: this.settings.cache,
        serial: volumeId,
        ...(persisted.limits === undefined ? {} : { limits: persisted.limits }),
      };
      try {
        await this.reactor.addExport(spec, handed);
      } catch (error) {
        await this.pool.detach(volumeId);
        throw error;
      }
      this.failures.delete(volumeId);
    } catch (error) {
      this.failures.set(volumeId, error instanceof Error ? error.message : String(error));
      throw error;
    }
  }

  private attach(volumeId: VolumeId): Promise<VolumeChain> {
    return this.pool.attach(volumeId, {
      barrier: () => this.reactor.barrier(volumeId),
      chainChanged: (changed) => this.reactor.changeChain(changed),
    });
  }

  /** Not before its rings have stopped is a volume's chain the pool's alone again. */
  private async stopServing(volumeId: VolumeId): Promise<void> {
    this.refuseElsewhere(volumeId);
    const loss = await this.reactor.removeExport(volumeId);
    if (loss !== undefined) {
      this.losses.set(volumeId, loss);
      this.logger.error(`the export of ${volumeId} has closed: ${loss}`);
    }
    await this.pool.detach(volumeId);
  }

  /** A killed process leaves its sockets behind; only those of volumes of this pool are ours to remove. */
  private async unlinkStaleSockets(): Promise<void> {
    const exported = new Set(this.exported().map(({ state }) => state.volumeId));
    const known = [
      ...this.states.list().map(({ volumeId }) => volumeId),
      ...this.pool.list().map(({ id }) => id),
    ];
    for (const volumeId of known) {
      if (!isId('vol', volumeId) || exported.has(volumeId)) continue;
      await unlink(this.socketPathOf(volumeId)).catch((error: unknown) => {
        if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
      });
    }
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

  private exported(): { state: VolumeState; persisted: PersistedExport }[] {
    return this.states
      .list()
      .flatMap((state) => (state.export === undefined ? [] : [{ state, persisted: state.export }]));
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

  private socketPathOf(volumeId: VolumeId): string {
    return join(this.settings.socketDirectory, `${volumeId}.sock`);
  }

  private async volumeOf(id: VolumeId, { sizeBytes, createdAt }: VolumeRecord): Promise<AgentVolume> {
    return { id, sizeBytes, createdAt, allocatedBytes: await this.pool.allocatedBytes(id) };
  }

  private exportOf(
    state: VolumeState,
    persisted: PersistedExport,
    status: ExportStatus | undefined,
  ): AgentExport {
    const { volumeId, generation } = state;
    const { attachmentId, readOnly, numQueues, limits } = persisted;
    const broken =
      status === undefined
        ? (this.losses.get(volumeId) ?? this.failures.get(volumeId) ?? 'the export is not open')
        : status.failed;
    const reason = broken ?? status?.waiting;
    const healthy: AgentExportState = status?.connected === true ? 'connected' : 'listening';
    return {
      volumeId,
      attachmentId,
      generation,
      readOnly,
      state: broken === undefined ? healthy : 'error',
      ...(reason === undefined ? {} : { reason }),
      ...(limits === undefined ? {} : { limits }),
      connection: {
        type: 'vhost-user-blk',
        socketPath: this.socketPathOf(volumeId),
        serial: volumeId,
        numQueues,
      },
    };
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
