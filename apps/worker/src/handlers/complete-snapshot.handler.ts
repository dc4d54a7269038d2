import { Injectable } from '@nestjs/common';
import { requirePlaced, requireWriting, type Reason } from '@cairn/domain';
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

type CompleteSnapshot = OperationOfKind<'complete-snapshot'>;

/**
 * Ends the writing of a snapshot: complete writing -> `completed`. The node reads all that was put, and says until then
 * that it is busy; so this is tried again and again.
 */
@Injectable()
export class CompleteSnapshotHandler implements OperationHandler<'complete-snapshot'> {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: CompleteSnapshot): Promise<Settlement> {
    const snapshot = await snapshotOf(this.unitOfWork, operation);
    requireWriting(snapshot, 'completing');
    const { nodeId } = requirePlaced(snapshot);
    this.settings.faultPoints.reach('worker.before-agent-call');
    await this.agents.call(nodeId, (agent) => agent.completeWriting(snapshot.id, operation.params));
    this.settings.faultPoints.reach('worker.after-agent-call');
    return async ({ snapshots }) => {
      await snapshots.transition(snapshot, 'completed', { reason: null });
    };
  }

  async abandon(operation: CompleteSnapshot, reason: Reason): Promise<Abandonment> {
    const snapshot = await snapshotOf(this.unitOfWork, operation);
    return {
      settle: async ({ snapshots }) => {
        // Deleted meanwhile.
        if (snapshot.writing !== 'completing') return;
        // The node has it no more; else it may be gone on with, and completed again.
        if (reason.code === 'agent-refused') await snapshots.transition(snapshot, 'failed', { reason });
        else await snapshots.moveWriting(snapshot, 'refused');
      },
    };
  }
}
