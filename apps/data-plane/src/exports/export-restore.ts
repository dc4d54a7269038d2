import { unlink } from 'node:fs/promises';
import { Logger } from '@nestjs/common';
import { isId, type VolumeId } from '@cairn/domain';
import type { Taken } from '../handover/handover.predecessor.js';
import type { KeyedQueue } from './keyed-queue.js';
import type { ExportRegistryParts, Predecessor } from './registry-parts.js';
import type { ServedExports } from './served-exports.js';
import { agentErrorOf } from './storage-refusals.js';
import type { PersistedExport } from './volume-states.js';

/** Serves again what was exported before this process started, or while it stood back. */
export class ExportRestore {
  private readonly logger = new Logger(ExportRestore.name);

  constructor(
    private readonly parts: Pick<ExportRegistryParts, 'pool' | 'reactor' | 'states'>,
    private readonly served: ServedExports,
    /** In which verbs of one volume wait for each other. */
    private readonly queue: KeyedQueue,
  ) {}

  /** See ExportRegistry.restore. */
  async run(predecessor: Predecessor | undefined): Promise<void> {
    await this.unlinkStaleSockets();
    const exported = this.parts.states.exported();
    // What this process has served while a successor tried to take over, and failed.
    const goingOn = new Set((await this.parts.reactor.statuses()).map(({ id }) => id));
    let takenOver = 0;
    for (const { state, persisted } of exported) {
      const { volumeId } = state;
      const taken = predecessor ? await this.takeOver(volumeId, persisted, predecessor) : 'absent';
      if (taken === 'taken') takenOver += 1;
      else if (taken === 'kept') await this.openWhenGone(volumeId, predecessor!);
      else if (goingOn.has(volumeId)) await this.served.goOn(volumeId);
      else await this.reopen(volumeId, persisted);
    }
    if (takenOver > 0) this.logger.log(`took over ${takenOver} of ${exported.length} exports`);
    else if (exported.length > 0) {
      const open = exported.filter(({ state }) => !this.served.hasFailed(state.volumeId)).length;
      this.logger.log(`re-opened ${open} of ${exported.length} exports`);
    }
  }

  private async reopen(volumeId: VolumeId, persisted: PersistedExport): Promise<void> {
    try {
      await this.served.listen(volumeId, persisted);
    } catch (error) {
      this.logger.error(
        `export of ${volumeId} could not be re-opened: ${agentErrorOf(error, 'export-failed').message}`,
      );
    }
  }

  private takeOver(volumeId: VolumeId, persisted: PersistedExport, from: Predecessor): Promise<Taken> {
    return from.take(volumeId, {
      adopt: (handed) => this.served.listen(volumeId, persisted, handed),
      resume: () => this.parts.reactor.resumeExport(volumeId),
      drop: () => this.parts.reactor.releaseExport(volumeId),
    });
  }

  /** What the predecessor could not hand over it drains and closes before it ends; only then may anybody serve it. */
  private async openWhenGone(volumeId: VolumeId, predecessor: Predecessor): Promise<void> {
    // What the pool does not understand it changes for nobody.
    await this.served.leaveElsewhere(volumeId).catch((error: unknown) => {
      this.logger.error(`${volumeId}: ${agentErrorOf(error, 'export-failed').message}`);
    });
    void predecessor.gone().then(() =>
      this.queue.run(volumeId, async () => {
        this.served.endElsewhere(volumeId);
        const persisted = this.parts.states.find(volumeId)?.export;
        if (persisted !== undefined) await this.reopen(volumeId, persisted);
      }),
    );
  }

  /** A killed process leaves its sockets behind; only those of volumes of this pool are ours to remove. */
  private async unlinkStaleSockets(): Promise<void> {
    const exported = new Set(this.parts.states.exported().map(({ state }) => state.volumeId));
    const known = [
      ...this.parts.states.list().map(({ volumeId }) => volumeId),
      ...this.parts.pool.list().map(({ id }) => id),
    ];
    for (const volumeId of known) {
      if (!isId('vol', volumeId) || exported.has(volumeId)) continue;
      await unlink(this.served.socketPathOf(volumeId)).catch((error: unknown) => {
        if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
      });
    }
  }
}
