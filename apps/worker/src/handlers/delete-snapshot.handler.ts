import { Injectable } from '@nestjs/common';
import type { Reason } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { NodeAgents } from '../nodes/node.agents.js';
import type {
  Abandonment,
  OperationHandler,
  OperationOfKind,
  Settlement,
} from '../operations/operation.handlers.js';
import { HandlerSettings } from './handler.settings.js';
import { snapshotOf } from './snapshot.lookup.js';

type DeleteSnapshot = OperationOfKind<'delete-snapshot'>;

/** Removes a snapshot; the bytes that only it had are given back by the node in the background. */
@Injectable()
export class DeleteSnapshotHandler implements OperationHandler<'delete-snapshot'> {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: DeleteSnapshot): Promise<Settlement> {
    const snapshot = await snapshotOf(this.unitOfWork, operation);
    this.settings.faultPoints.reach('worker.before-agent-call');
    const { id, nodeId } = snapshot;
    // One that never had a place is nowhere.
    if (nodeId !== undefined) await this.agents.call(nodeId, (agent) => agent.deleteSnapshot(id));
    this.settings.faultPoints.reach('worker.after-agent-call');
    return async ({ snapshots }) => {
      await snapshots.transition(snapshot, 'removed', { reason: null });
    };
  }

  async abandon(operation: DeleteSnapshot, reason: Reason): Promise<Abandonment> {
    const snapshot = await snapshotOf(this.unitOfWork, operation);
    return {
      settle: async ({ snapshots }) => {
        await snapshots.transition(snapshot, 'failed', { reason });
      },
    };
  }
}
