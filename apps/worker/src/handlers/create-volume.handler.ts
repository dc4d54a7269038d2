import { Injectable, Logger } from '@nestjs/common';
import {
  DomainError,
  type FaultPoints,
  type NodeId,
  type Reason,
  type Volume,
  type VolumeSource,
} from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { NodeAgents } from '../nodes/node.agents.js';
import type {
  Abandonment,
  OperationHandler,
  OperationOfKind,
  Settlement,
} from '../operations/operation.handlers.js';
import { chooseNode, type Place } from '../placement/choose-node.js';
import { HandlerSettings } from './handler.settings.js';
import { volumeOf } from './volume.lookup.js';

type CreateVolume = OperationOfKind<'create-volume'>;

/** Makes the file of a new volume: place -> put volume -> `available`. */
@Injectable()
export class CreateVolumeHandler implements OperationHandler<'create-volume'> {
  private readonly logger = new Logger(CreateVolumeHandler.name);
  private readonly faultPoints: FaultPoints;

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {
    this.faultPoints = settings.faultPoints;
  }

  async perform(operation: CreateVolume): Promise<Settlement> {
    const volume = await this.unitOfWork.read((repositories) => volumeOf(repositories, operation));
    // Written down before the agent is called, so that whoever retries asks the same node.
    const place = placeOf(volume) ?? (await this.place(volume, operation.attempts));
    this.faultPoints.reach('worker.after-placement');
    await this.putVolume(volume, place.nodeId, operation.params.source);
    return async ({ volumes }) => {
      await volumes.transition(volume, 'created', { reason: null });
      // A late worker that met a full pool may have taken the place away, or chosen another since.
      const { nodeId } = await volumes.place(volume.id, place);
      if (nodeId !== place.nodeId) {
        throw new DomainError('concurrent-change', {
          message: `${volume.id} was placed elsewhere meanwhile.`,
        });
      }
    };
  }

  async abandon(operation: CreateVolume, reason: Reason): Promise<Abandonment> {
    const volume = await this.unitOfWork.read((repositories) => volumeOf(repositories, operation));
    const { id, nodeId } = volume;
    return {
      settle: async ({ volumes }) => {
        await volumes.transition(volume, 'failed', { reason });
      },
      cleanUp: async () => {
        if (nodeId === undefined) return;
        // What is left behind goes when the volume, now in `error`, is deleted.
        await this.agents
          .call(nodeId, (agent) => agent.deleteVolume(id))
          .catch((error: unknown) => this.logger.warn(`${id} may be left on ${nodeId}: ${String(error)}`));
      },
    };
  }

  private async place({ id, sizeBytes }: Volume, attempt: number): Promise<Place> {
    const { overcommitRatio } = this.settings;
    const placed = await this.unitOfWork.read(async ({ nodes, volumes }) => {
      const place = chooseNode(await nodes.list(), { sizeBytes, overcommitRatio, attempt });
      return volumes.place(id, place);
    });
    const place = placeOf(placed);
    if (place === undefined)
      throw new DomainError('concurrent-change', { message: `${id} lost its place to another worker.` });
    return place;
  }

  private async putVolume(
    { id, sizeBytes }: Volume,
    nodeId: NodeId,
    source: VolumeSource | undefined,
  ): Promise<void> {
    const request = { sizeBytes, ...(source === undefined ? {} : { source }) };
    this.faultPoints.reach('worker.before-agent-call');
    try {
      await this.agents.call(nodeId, (agent) => agent.putVolume(id, request));
    } catch (error) {
      // The node is sure that it has nothing of the volume, so the next try may go elsewhere, unless its source is there.
      if (error instanceof DomainError && error.code === 'pool-full' && source === undefined) {
        await this.unitOfWork.read(({ volumes }) => volumes.unplace(id, nodeId));
      }
      throw error;
    }
    this.faultPoints.reach('worker.after-agent-call');
  }
}

function placeOf({ nodeId, poolId }: Volume): Place | undefined {
  return nodeId === undefined || poolId === undefined ? undefined : { nodeId, poolId };
}
