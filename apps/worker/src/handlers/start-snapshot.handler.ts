import { Injectable, Logger } from '@nestjs/common';
import { DomainError, requireWriting, type Reason, type Snapshot } from '@cairn/domain';
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
import { snapshotOf } from './snapshot.lookup.js';

type StartSnapshot = OperationOfKind<'start-snapshot'>;

/** Begins a snapshot that is written from blocks: place -> start writing -> `open`, still pending. */
@Injectable()
export class StartSnapshotHandler implements OperationHandler<'start-snapshot'> {
  private readonly logger = new Logger(StartSnapshotHandler.name);

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly agents: NodeAgents,
    private readonly settings: HandlerSettings,
  ) {}

  async perform(operation: StartSnapshot): Promise<Settlement> {
    const snapshot = await snapshotOf(this.unitOfWork, operation);
    requireWriting(snapshot, 'starting');
    // Written down before the agent is called, so that whoever retries asks the same node.
    const place = placeOf(snapshot) ?? (await this.place(snapshot, operation.attempts));
    this.settings.faultPoints.reach('worker.after-placement');
    await this.start(snapshot, place, operation.params);
    return async ({ snapshots }) => {
      await snapshots.moveWriting(snapshot, 'started');
      // A late worker that met a full pool may have taken the place away, or chosen another since.
      const { nodeId } = await snapshots.place(snapshot.id, place);
      if (nodeId === place.nodeId) return;
      throw new DomainError('concurrent-change', {
        message: `${snapshot.id} was placed elsewhere meanwhile.`,
      });
    };
  }

  async abandon(operation: StartSnapshot, reason: Reason): Promise<Abandonment> {
    const snapshot = await snapshotOf(this.unitOfWork, operation);
    const { id, nodeId, writing } = snapshot;
    return {
      settle: async ({ snapshots }) => {
        if (writing === 'starting') await snapshots.transition(snapshot, 'failed', { reason });
      },
      cleanUp: async () => {
        if (nodeId === undefined || writing !== 'starting') return;
        // What is left behind expires, or goes when the snapshot, now in `error`, is deleted.
        await this.agents
          .call(nodeId, (agent) => agent.deleteSnapshot(id))
          .catch((error: unknown) => this.logger.warn(`${id} may be left on ${nodeId}: ${String(error)}`));
      },
    };
  }

  private async place({ id, sizeBytes }: Snapshot, attempt: number): Promise<Place> {
    const { overcommitRatio } = this.settings;
    const placed = await this.unitOfWork.read(async ({ nodes, snapshots }) => {
      const place = chooseNode(await nodes.list(), { sizeBytes, overcommitRatio, attempt });
      return snapshots.place(id, place);
    });
    const place = placeOf(placed);
    if (place !== undefined) return place;
    throw new DomainError('concurrent-change', { message: `${id} lost its place to another worker.` });
  }

  private async start(
    { id, sizeBytes }: Snapshot,
    { nodeId }: Place,
    { timeoutMinutes, parentSnapshotId }: StartSnapshot['params'],
  ): Promise<void> {
    const parent = parentSnapshotId === undefined ? {} : { parentSnapshotId };
    const request = { sizeBytes, timeoutMs: timeoutMinutes * 60_000, ...parent };
    this.settings.faultPoints.reach('worker.before-agent-call');
    try {
      await this.agents.call(nodeId, (agent) => agent.startWriting(id, request));
    } catch (error) {
      // The node is sure that it has nothing of it, so the next try may go elsewhere, unless its parent is there.
      if (error instanceof DomainError && error.code === 'pool-full' && parentSnapshotId === undefined) {
        await this.unitOfWork.read(({ snapshots }) => snapshots.unplace(id, nodeId));
      }
      throw error;
    }
    this.settings.faultPoints.reach('worker.after-agent-call');
  }
}

function placeOf({ nodeId, poolId }: Snapshot): Place | undefined {
  return nodeId === undefined || poolId === undefined ? undefined : { nodeId, poolId };
}
