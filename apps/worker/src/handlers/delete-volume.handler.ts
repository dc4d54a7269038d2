import { Injectable } from '@nestjs/common';
import type { NodeId, Reason, Volume } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { NodeAgents } from '../nodes/node.agents.js';
import type {
  Abandonment,
  OperationHandler,
  OperationOfKind,
  Settlement,
} from '../operations/operation.handlers.js';
import { HandlerSettings } from './handler.settings.js';
import { volumeOf } from './volume.lookup.js';

type DeleteVolume = OperationOfKind<'delete-volume'>;

/** Removes the file of a volume and whatever else a failed operation left of it on the node. */
@Injectable()
export class DeleteVolumeHandler implements OperationHandler<'delete-volume'> {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: DeleteVolume): Promise<Settlement> {
    const volume = await this.unitOfWork.read((repositories) => volumeOf(repositories, operation));
    // A volume that was never placed is nowhere.
    if (volume.nodeId !== undefined) await this.remove(volume, volume.nodeId);
    return async ({ volumes }) => {
      await volumes.transition(volume, 'removed', { reason: null });
    };
  }

  async abandon(operation: DeleteVolume, reason: Reason): Promise<Abandonment> {
    const volume = await this.unitOfWork.read((repositories) => volumeOf(repositories, operation));
    return {
      settle: async ({ volumes }) => {
        await volumes.transition(volume, 'failed', { reason });
      },
    };
  }

  private async remove({ id, generation }: Volume, nodeId: NodeId): Promise<void> {
    const { faultPoints } = this.settings;
    faultPoints.reach('worker.before-agent-call');
    await this.agents.call(nodeId, async (agent) => {
      // No attachment is live, so an export that is still there is a leftover.
      if (generation > 0) await agent.deleteExport(id, { generation, force: true });
      await agent.deleteVolume(id);
    });
    faultPoints.reach('worker.after-agent-call');
  }
}
