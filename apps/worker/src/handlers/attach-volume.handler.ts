import { Injectable, Logger } from '@nestjs/common';
import { DomainError, type Reason } from '@cairn/domain';
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

type AttachVolume = OperationOfKind<'attach-volume'>;

/** Exports a volume for one guest: put export with its generation -> `attached` with the connection. */
@Injectable()
export class AttachVolumeHandler implements OperationHandler<'attach-volume'> {
  private readonly logger = new Logger(AttachVolumeHandler.name);

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: AttachVolume): Promise<Settlement> {
    const { volume, attachment } = await this.load(operation);
    const { nodeId } = volume;
    if (nodeId === undefined) {
      throw new DomainError('internal', { message: `${volume.id} is attached and has no node.` });
    }
    const { generation, readOnly, numQueues } = operation.params;
    const request = { attachmentId: attachment.id, generation, readOnly, numQueues };
    this.settings.faultPoints.reach('worker.before-agent-call');
    const { state, reason, connection } = await this.agents.call(nodeId, (agent) =>
      agent.putExport(volume.id, request),
    );
    this.settings.faultPoints.reach('worker.after-agent-call');
    if (state === 'error') {
      throw new DomainError('pool-unavailable', {
        message: `The export of ${volume.id} does not serve: ${reason ?? state}`,
      });
    }
    return async ({ attachments }) => {
      await attachments.transition(attachment, 'attached', { nodeId, connection, reason: null });
    };
  }

  async abandon(operation: AttachVolume, reason: Reason): Promise<Abandonment> {
    const { volume, attachment } = await this.load(operation);
    const { nodeId } = volume;
    const { generation } = operation.params;
    return {
      settle: async ({ attachments, volumes }) => {
        await volumes.transition(volume, 'detached');
        await attachments.transition(attachment, 'failed', { reason });
      },
      cleanUp: async () => {
        if (nodeId === undefined) return;
        // What is left behind is fenced by the next attachment, or goes with the volume.
        await this.agents
          .call(nodeId, (agent) => agent.deleteExport(volume.id, { generation, force: true }))
          .catch((error: unknown) =>
            this.logger.warn(`${volume.id} may be exported on ${nodeId}: ${String(error)}`),
          );
      },
    };
  }

  private load(operation: AttachVolume) {
    return this.unitOfWork.read(async (repositories) => ({
      volume: await volumeOf(repositories, operation),
      attachment: await attachmentOf(repositories, operation),
    }));
  }
}
