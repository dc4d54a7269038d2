import { Injectable } from '@nestjs/common';
import { DomainError, reasonOf, type Attachment, type NodeId, type Reason } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { NodeAgents } from '../nodes/node.agents.js';
import type {
  Abandonment,
  OperationHandler,
  OperationOfKind,
  Settlement,
} from '../operations/operation.handlers.js';
import { HandlerSettings } from './handler.settings.js';
import { attachmentOf, volumeOf } from './volume.lookup.js';

type DetachVolume = OperationOfKind<'detach-volume'>;

/** Ends the export of an attachment once its guest has let go, or at once when forced. */
@Injectable()
export class DetachVolumeHandler implements OperationHandler<'detach-volume'> {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: DetachVolume): Promise<Settlement> {
    const { volume, attachment } = await this.load(operation);
    const { nodeId } = volume;
    if (nodeId !== undefined) await this.deleteExport(operation, attachment, nodeId);
    return async ({ attachments, volumes }) => {
      await volumes.transition(volume, 'detached');
      await attachments.transition(attachment, 'detached', { connection: null, reason: null });
    };
  }

  async abandon(operation: DetachVolume, reason: Reason): Promise<Abandonment> {
    const { attachment } = await this.load(operation);
    return {
      settle: async ({ attachments }) => {
        await attachments.transition(attachment, 'kept', { reason });
      },
    };
  }

  private async deleteExport(operation: DetachVolume, attachment: Attachment, nodeId: NodeId): Promise<void> {
    const { generation, force } = operation.params;
    const { faultPoints } = this.settings;
    faultPoints.reach('worker.before-agent-call');
    try {
      await this.agents.call(nodeId, (agent) =>
        agent.deleteExport(attachment.volumeId, { generation, force }),
      );
    } catch (error) {
      if (!(error instanceof DomainError)) throw error;
      // A newer generation on the node says that this one ended there.
      if (error.code === 'stale-generation') return;
      if (error.code === 'export-busy') throw await this.reportBusy(attachment, error);
      throw error;
    }
    faultPoints.reach('worker.after-agent-call');
  }

  private async reportBusy(attachment: Attachment, cause: DomainError): Promise<DomainError> {
    const busy = new DomainError(
      'export-busy',
      {
        message: `${cause.message}. Unplug the device in the guest's hypervisor, or detach with force=true.`,
      },
      { cause },
    );
    await this.unitOfWork.read(({ attachments }) =>
      attachments.transition(attachment, 'busy', { reason: reasonOf(busy) }),
    );
    return busy;
  }

  private load(operation: DetachVolume) {
    return this.unitOfWork.read(async (repositories) => ({
      volume: await volumeOf(repositories, operation),
      attachment: await attachmentOf(repositories, operation),
    }));
  }
}
