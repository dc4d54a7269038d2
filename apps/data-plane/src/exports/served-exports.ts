import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import { AgentError, type AgentExport, type AgentExportState } from '@cairn/agent';
import type { ExportStatus, Handed } from '@cairn/block-export';
import { serialOf, type VolumeId } from '@cairn/domain';
import type { SwitchHeads, VolumeChain } from '@cairn/storage';
import type { ExportReactor, ExportSettings, VolumePool } from './registry-parts.js';
import type { PersistedExport, VolumeState } from './volume-states.js';

const servedElsewhere = 'the data plane that ran before has not completed all its requests yet';

/**
 * The volumes that the reactors serve. A volume is attached in its pool as long as it is served, so that the pool tells
 * of every change of its chain.
 */
export class ServedExports {
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

  private readonly logger = new Logger(ServedExports.name);
  /** Volumes that a predecessor still serves: what they are read from may not change, and nobody else may serve them. */
  private readonly elsewhere = new Set<string>();
  /** Why an export that should listen does not. */
  private readonly failures = new Map<VolumeId, string>();
  /** What could not be made durable when an export closed; told until its attachment is let go of by force. */
  private readonly losses = new Map<VolumeId, string>();

  constructor(
    private readonly pool: VolumePool,
    private readonly reactor: ExportReactor,
    private readonly settings: ExportSettings,
  ) {}

  /** Serves an export, from where a predecessor left it if that is `handed`. Says why later, too, when it rejects. */
  async listen(volumeId: VolumeId, persisted: PersistedExport, handed?: Handed): Promise<void> {
    try {
      // One whose removal took too long may have gone by itself since then.
      await this.stop(volumeId);
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
        serial: serialOf(volumeId),
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

  /** Served all the time, while a successor that has died may have changed what the volume is read from. */
  async goOn(volumeId: VolumeId): Promise<void> {
    await this.reactor.changeChain(await this.attach(volumeId));
  }

  /** Not before its rings have stopped is a volume's chain the pool's alone again. */
  async stop(volumeId: VolumeId): Promise<void> {
    this.refuseElsewhere(volumeId);
    const loss = await this.reactor.removeExport(volumeId);
    if (loss !== undefined) {
      this.losses.set(volumeId, loss);
      this.logger.error(`the export of ${volumeId} has closed: ${loss}`);
    }
    await this.pool.detach(volumeId);
  }

  /** Leaves a volume to a predecessor that has not ended: nobody else serves it, and nothing changes what it is read from. */
  async leaveElsewhere(volumeId: VolumeId): Promise<void> {
    this.failures.set(volumeId, servedElsewhere);
    this.elsewhere.add(volumeId);
    const refuse = (): Promise<never> => Promise.reject(new Error(`${volumeId}: ${servedElsewhere}`));
    await this.pool.attach(volumeId, { barrier: refuse, chainChanged: refuse });
  }

  /** The predecessor of `leaveElsewhere` has ended. */
  endElsewhere(volumeId: VolumeId): void {
    this.elsewhere.delete(volumeId);
  }

  /** What could not be made durable when the export closed, unless that was forgotten since. */
  lossOf(volumeId: VolumeId): string | undefined {
    return this.losses.get(volumeId);
  }

  forgetLoss(volumeId: VolumeId): void {
    this.losses.delete(volumeId);
  }

  /** It is not to be served any more. */
  forget(volumeId: VolumeId): void {
    this.losses.delete(volumeId);
    this.failures.delete(volumeId);
  }

  /** Should it be served, and is not? */
  hasFailed(volumeId: VolumeId): boolean {
    return this.failures.has(volumeId);
  }

  socketPathOf(volumeId: VolumeId): string {
    return join(this.settings.socketDirectory, `${volumeId}.sock`);
  }

  /** What is told of an export; `status` is that of the reactors. */
  describe(state: VolumeState, persisted: PersistedExport, status: ExportStatus | undefined): AgentExport {
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
        serial: serialOf(volumeId),
        numQueues,
      },
    };
  }

  private attach(volumeId: VolumeId): Promise<VolumeChain> {
    return this.pool.attach(volumeId, {
      barrier: () => this.reactor.barrier(volumeId),
      chainChanged: (changed) => this.reactor.changeChain(changed),
    });
  }

  private refuseElsewhere(volumeId: string): void {
    if (this.elsewhere.has(volumeId)) throw new AgentError('volume-busy', `${volumeId}: ${servedElsewhere}`);
  }
}
