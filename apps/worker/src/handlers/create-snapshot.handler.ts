import { Injectable, Logger } from '@nestjs/common';
import { DomainError, requirePlaced, type Reason, type Snapshot } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { NodeAgents } from '../nodes/node.agents.js';
import type {
  Abandonment,
  OperationHandler,
  OperationOfKind,
  Settlement,
} from '../operations/operation.handlers.js';
import { HandlerSettings } from './handler.settings.js';

type CreateSnapshot = OperationOfKind<'create-snapshot'>;

/** Takes one snapshot, or a group of one point in time: take snapshots -> all of them `completed`. */
@Injectable()
export class CreateSnapshotHandler implements OperationHandler<'create-snapshot'> {
  private readonly logger = new Logger(CreateSnapshotHandler.name);

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: CreateSnapshot): Promise<Settlement> {
    const { snapshots, first } = await this.load(operation);
    const request = {
      snapshots: snapshots.flatMap(({ id, volumeId }) =>
        volumeId === undefined ? [] : [{ snapshotId: id, volumeId }],
      ),
      ...(first.groupId === undefined ? {} : { groupId: first.groupId }),
    };
    const { nodeId } = requirePlaced(first);
    this.settings.faultPoints.reach('worker.before-agent-call');
    await this.agents.call(nodeId, (agent) => agent.takeSnapshots(request));
    this.settings.faultPoints.reach('worker.after-agent-call');
    return async (repositories) => {
      for (const snapshot of snapshots) {
        await repositories.snapshots.transition(snapshot, 'completed', { reason: null });
      }
    };
  }

  async abandon(operation: CreateSnapshot, reason: Reason): Promise<Abandonment> {
    const { snapshots, first } = await this.load(operation);
    const { nodeId } = requirePlaced(first);
    return {
      settle: async (repositories) => {
        for (const snapshot of snapshots) {
          await repositories.snapshots.transition(snapshot, 'failed', { reason });
        }
      },
      cleanUp: async () => {
        // What is left behind goes when the snapshots, now in `error`, are deleted.
        await this.agents
          .call(nodeId, async (agent) => {
            for (const { id } of snapshots) await agent.deleteSnapshot(id);
          })
          .catch((error: unknown) =>
            this.logger.warn(`${first.id} may be left on ${nodeId}: ${String(error)}`),
          );
      },
    };
  }

  /** The rows of all the snapshots, which are on one node. */
  private async load({ params }: CreateSnapshot): Promise<{ snapshots: Snapshot[]; first: Snapshot }> {
    const { snapshotIds } = params;
    const snapshots = await this.unitOfWork.read((repositories) =>
      repositories.snapshots.listById(snapshotIds),
    );
    const [first] = snapshots;
    if (first !== undefined && snapshots.length === snapshotIds.length) return { snapshots, first };
    throw new DomainError('snapshot-not-found', {
      message: `Of ${snapshotIds.join(', ')} there are ${snapshots.length}.`,
    });
  }
}
