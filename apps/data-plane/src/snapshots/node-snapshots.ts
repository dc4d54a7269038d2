import type { AgentSnapshot, TakeSnapshots } from '@cairn/agent';
import { isId, noFaultPoints, type FaultPoints, type SnapshotId } from '@cairn/domain';
import type { SnapshotRecord, VolumeStore } from '@cairn/storage';
import type { ExportRegistry } from '../exports/export.registry.js';
import { agentErrorOf } from '../exports/storage-refusals.js';

/** The part of the volume store that verbs of snapshots use. */
export type SnapshotPool = Pick<VolumeStore, 'snapshots'>;

/** What the verbs work with. */
export interface NodeSnapshotsParts {
  readonly pool: SnapshotPool;
  readonly exports: Pick<ExportRegistry, 'switchHeads'>;
  /** Told when something was deleted, of which the bytes may be given back. */
  readonly deleted: () => void;
  readonly faultPoints?: FaultPoints;
}

/** The snapshots of the node. Every verb is idempotent and safe to repeat after a crash at any step. */
export class NodeSnapshots {
  private readonly faultPoints: FaultPoints;

  constructor(private readonly parts: NodeSnapshotsParts) {
    this.faultPoints = parts.faultPoints ?? noFaultPoints;
  }

  /** See AgentClient.takeSnapshots. */
  take({ snapshots, groupId }: TakeSnapshots): Promise<AgentSnapshot[]> {
    return this.verb(async () => {
      const { pool, exports } = this.parts;
      const group = groupId === undefined ? {} : { group: groupId };
      const taken = await pool.snapshots.take(snapshots, { switchHeads: exports.switchHeads, ...group });
      return taken.flatMap(snapshotOf);
    });
  }

  /** Every completed snapshot of the pool. */
  list(): AgentSnapshot[] {
    return this.parts.pool.snapshots.list().flatMap(snapshotOf);
  }

  /** Those that are there but not understood. */
  listBroken(): { id: string }[] {
    return this.parts.pool.snapshots.listBroken().map(({ id }) => ({ id }));
  }

  /** See AgentClient.deleteSnapshot. */
  delete(snapshotId: SnapshotId): Promise<void> {
    return this.verb(async () => {
      await this.parts.pool.snapshots.delete(snapshotId);
      this.parts.deleted();
    });
  }

  private async verb<Value>(task: () => Promise<Value>): Promise<Value> {
    try {
      const answer = await task();
      this.faultPoints.reach('data-plane.before-answer');
      return answer;
    } catch (error) {
      throw agentErrorOf(error, 'storage-failed');
    }
  }
}

function snapshotOf({ id, volumeId, sizeBytes, state }: SnapshotRecord): AgentSnapshot[] {
  if (state !== 'completed' || !isId('snap', id)) return [];
  return [{ id, sizeBytes, ...(isId('vol', volumeId) ? { volumeId } : {}) }];
}
