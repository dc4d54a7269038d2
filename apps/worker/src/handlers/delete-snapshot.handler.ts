import { Injectable } from '@nestjs/common';
import { DomainError, type Reason, type Snapshot } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { NodeAgents } from '../nodes/node.agents.js';
import type {
  Abandonment,
  OperationHandler,
  OperationOfKind,
  Settlement,
} from '../operations/operation.handlers.js';
import { HandlerSettings } from './handler.settings.js';

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
    const snapshot = await this.load(operation);
    this.settings.faultPoints.reach('worker.before-agent-call');
    await this.agents.call(snapshot.nodeId, (agent) => agent.deleteSnapshot(snapshot.id));
    this.settings.faultPoints.reach('worker.after-agent-call');
    return async ({ snapshots }) => {
      await snapshots.transition(snapshot, 'removed', { reason: null });
    };
  }

  async abandon(operation: DeleteSnapshot, reason: Reason): Promise<Abandonment> {
    const snapshot = await this.load(operation);
    return {
      settle: async ({ snapshots }) => {
        await snapshots.transition(snapshot, 'failed', { reason });
      },
    };
  }

  private async load({ target }: DeleteSnapshot): Promise<Snapshot> {
    const [snapshot] = await this.unitOfWork.read(({ snapshots }) => snapshots.listById([target.snapshotId]));
    if (snapshot !== undefined) return snapshot;
    throw new DomainError('snapshot-not-found', { message: `There is no snapshot ${target.snapshotId}.` });
  }
}
