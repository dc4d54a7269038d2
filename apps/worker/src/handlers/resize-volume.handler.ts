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

type ResizeVolume = OperationOfKind<'resize-volume'>;

/** Makes a volume larger on its node, also while a guest uses it: put size -> the row has it. */
@Injectable()
export class ResizeVolumeHandler implements OperationHandler<'resize-volume'> {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: ResizeVolume): Promise<Settlement> {
    const volume = await this.unitOfWork.read((repositories) => placedVolumeOf(repositories, operation));
    const { sizeBytes } = operation.params;
    this.settings.faultPoints.reach('worker.before-agent-call');
    await this.agents.call(volume.nodeId, (agent) => agent.putSize(volume.id, { sizeBytes }));
    this.settings.faultPoints.reach('worker.after-agent-call');
    return async ({ volumes }) => {
      await volumes.endModification(volume, 'completed', { sizeBytes });
    };
  }

  async abandon(operation: ResizeVolume, reason: Reason): Promise<Abandonment> {
    const volume = await this.unitOfWork.read((repositories) => placedVolumeOf(repositories, operation));
    return {
      // If the node did it and nobody heard, the next resize finds it done.
      settle: async ({ volumes }) => {
        await volumes.endModification(volume, 'failed', { reason });
      },
    };
  }
}
