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
import { placedVolumeOf } from './volume.lookup.js';

type RevertVolume = OperationOfKind<'revert-volume'>;

/** Makes a detached volume read as one of its snapshots again, once for the generation of the revert. */
@Injectable()
export class RevertVolumeHandler implements OperationHandler<'revert-volume'> {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: RevertVolume): Promise<Settlement> {
    const volume = await this.unitOfWork.read((repositories) => placedVolumeOf(repositories, operation));
    const { generation } = operation.params;
    const { snapshotId } = operation.target;
    this.settings.faultPoints.reach('worker.before-agent-call');
    await this.agents.call(volume.nodeId, (agent) => agent.putRevert(volume.id, { snapshotId, generation }));
    this.settings.faultPoints.reach('worker.after-agent-call');
    return async ({ volumes }) => {
      await volumes.endModification(volume, 'completed');
    };
  }

  async abandon(operation: RevertVolume, reason: Reason): Promise<Abandonment> {
    const volume = await this.unitOfWork.read((repositories) => placedVolumeOf(repositories, operation));
    return {
      settle: async ({ volumes }) => {
        await volumes.endModification(volume, 'failed', { reason });
      },
    };
  }
}
