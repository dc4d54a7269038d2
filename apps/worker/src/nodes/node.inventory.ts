import { Injectable, Logger } from '@nestjs/common';
import { DomainError, type NodeId, type Reason, type Snapshot, type SnapshotId } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { RecurringTask } from '../schedule/recurring-task.js';
import { NodeAgents } from './node.agents.js';

/** How often each node is looked at. */
export abstract class InventorySettings {
  abstract readonly inventoryMs: number;
}

const lost: Reason = {
  code: 'snapshot-lost',
  message: 'Its node has it no more. Put its manifest back from a backup, or delete it.',
};
const expired: Reason = {
  code: 'snapshot-expired',
  message: 'No block was put for too long, and its node has it no more. Delete it, and start another one.',
};

/**
 * Compares what the nodes have with the rows, and takes in how much space everything takes.
 *
 * A snapshot whose row says that it is deleted is removed from its node. One that no row knows is never removed, only
 * reported: the rows may be an older backup. A row whose snapshot is not there becomes `error`, and goes back to
 * `completed` when the node has it again; one that was being written from blocks has expired then. Of several workers, each node is looked at by one.
 */
@Injectable()
export class NodeInventory extends RecurringTask {
  private readonly log = new Logger(NodeInventory.name);
  /** Snapshots without a row that were reported. */
  private readonly reported = new Set<SnapshotId>();

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: InventorySettings,
  ) {
    super({
      name: NodeInventory.name,
      intervalMs: Math.min(settings.inventoryMs, 1000),
      run: () => this.lookAtAll(),
    });
  }

  private async lookAtAll(): Promise<void> {
    const due = await this.unitOfWork.read(({ nodes }) => nodes.claimInventory(this.settings.inventoryMs));
    for (const nodeId of due) {
      try {
        await this.lookAt(nodeId);
      } catch (error) {
        // A node that does not answer is the monitor's to report.
        if (!(error instanceof DomainError && error.retryable)) throw error;
      }
    }
  }

  /** Compares one node with its rows. Throws DomainError when it does not answer. */
  async lookAt(nodeId: NodeId): Promise<void> {
    // Rows before the node and after it: what comes or goes meanwhile is neither lost nor without a row.
    const { before, pools } = await this.unitOfWork.read(async ({ nodes, snapshots }) => ({
      before: await snapshots.listByNode(nodeId),
      pools: new Set((await nodes.get(nodeId)).pools.map(({ id }) => id)),
    }));
    const { list, usage } = await this.agents.call(nodeId, async (agent) => ({
      list: await agent.listSnapshotIds(),
      usage: await agent.getUsage(),
    }));
    const { ids, writing } = list;
    const there = [...ids, ...writing.map(({ id }) => id)];
    const present = new Set(there);
    const after = await this.unitOfWork.read(({ snapshots }) => snapshots.listById(there));
    await this.remove(
      nodeId,
      after.filter(({ state }) => state === 'deleted'),
    );
    this.report(nodeId, there, after);
    await this.unitOfWork.read(({ snapshots }) =>
      snapshots.recordProgress(
        writing.flatMap(({ id, percent }) => (percent === undefined ? [] : [{ id, percent }])),
      ),
    );
    for (const snapshot of before.filter(({ poolId }) => poolId !== undefined && pools.has(poolId))) {
      await this.correct(snapshot, present.has(snapshot.id));
    }
    const { measuredAt } = usage;
    if (measuredAt === undefined) return;
    await this.unitOfWork.run(async ({ volumes, snapshots }) => {
      await volumes.recordUsage(usage.usage, measuredAt);
      await snapshots.recordUsage(usage.usage, measuredAt);
    });
  }

  private async remove(nodeId: NodeId, deleted: readonly Snapshot[]): Promise<void> {
    for (const { id } of deleted) {
      await this.agents.call(nodeId, (agent) => agent.deleteSnapshot(id));
      this.log.warn(`${id} was deleted and still on ${nodeId}; it is removed now`);
    }
  }

  private report(nodeId: NodeId, there: readonly SnapshotId[], rows: readonly Snapshot[]): void {
    const known = new Set(rows.map(({ id }) => id));
    for (const id of there) {
      if (known.has(id) || this.reported.has(id)) continue;
      this.reported.add(id);
      this.log.warn(
        `${id} on ${nodeId} has no row; it is left alone: delete it with the agent if it is not needed`,
      );
    }
  }

  private async correct(snapshot: Snapshot, isThere: boolean): Promise<void> {
    const isLost = snapshot.state === 'error' && snapshot.reason?.code === 'snapshot-lost';
    const gone =
      snapshot.state === 'completed'
        ? (['lost', lost] as const)
        : snapshot.writing === 'open' && (['failed', expired] as const);
    const change = isThere ? isLost && (['found', null] as const) : gone;
    if (!change) return;
    const [event, reason] = change;
    try {
      await this.unitOfWork.read(({ snapshots }) => snapshots.transition(snapshot, event, { reason }));
      this.log.warn(`${snapshot.id} on ${snapshot.nodeId}: ${reason?.code ?? event}`);
    } catch (error) {
      // Deleted meanwhile.
      if (!(error instanceof DomainError && error.code === 'concurrent-change')) throw error;
    }
  }
}
