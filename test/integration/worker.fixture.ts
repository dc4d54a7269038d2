import {
  newId,
  noFaultPoints,
  type NodeId,
  type Operation,
  type OperationIntent,
  type PoolId,
  type ProjectId,
  type VolumeId,
} from '@cairn/domain';
import { Database, type Repositories, type UnitOfWork } from '@cairn/persistence';
import { AttachVolumeHandler } from '../../apps/worker/src/handlers/attach-volume.handler.js';
import { CompleteSnapshotHandler } from '../../apps/worker/src/handlers/complete-snapshot.handler.js';
import { CreateSnapshotHandler } from '../../apps/worker/src/handlers/create-snapshot.handler.js';
import { CreateVolumeHandler } from '../../apps/worker/src/handlers/create-volume.handler.js';
import { DeleteSnapshotHandler } from '../../apps/worker/src/handlers/delete-snapshot.handler.js';
import { DeleteVolumeHandler } from '../../apps/worker/src/handlers/delete-volume.handler.js';
import { DetachVolumeHandler } from '../../apps/worker/src/handlers/detach-volume.handler.js';
import { ResizeVolumeHandler } from '../../apps/worker/src/handlers/resize-volume.handler.js';
import { RevertVolumeHandler } from '../../apps/worker/src/handlers/revert-volume.handler.js';
import { StartSnapshotHandler } from '../../apps/worker/src/handlers/start-snapshot.handler.js';
import { NodeAgents } from '../../apps/worker/src/nodes/node.agents.js';
import { OperationHandlers } from '../../apps/worker/src/operations/operation.handlers.js';
import { OperationRunner } from '../../apps/worker/src/operations/operation.runner.js';
import { sql, startPostgres, type TestPostgres } from '../support/databases.js';
import { FakeAgent } from '../support/fake-agent.js';

export const MIB = 2 ** 20;

/** An operation on a volume. */
export type VolumeOperation = Extract<Operation, { target: { volumeId: VolumeId } }>;

/** Workers in this process over a real database, and a fake agent on the only node. */
export class WorkerFixture {
  readonly nodeId: NodeId = newId('node');
  readonly poolId: PoolId = newId('pool');

  private constructor(
    private readonly postgres: TestPostgres,
    readonly url: string,
    readonly database: Database,
    readonly agent: FakeAgent,
    readonly projectId: ProjectId,
  ) {}

  static async start(): Promise<WorkerFixture> {
    const postgres = await startPostgres();
    const url = await postgres.createDatabase();
    const database = await Database.open({ url, applicationName: 'test' });
    const project = await database.unitOfWork.run(({ projects }) => projects.ensure('test'));
    return new WorkerFixture(postgres, url, database, await FakeAgent.start(), project.id);
  }

  async stop(): Promise<void> {
    await this.agent.stop();
    await this.database.close();
    await this.postgres.stop();
  }

  /** The node reports itself. */
  async heartbeat(agentUrl = this.agent.url): Promise<void> {
    const room = {
      totalBytes: 2 ** 40,
      freeBytes: 2 ** 40,
      provisionedBytes: 0,
      volumes: 0,
      lowSpace: false,
    };
    await this.database.unitOfWork.run(({ nodes }) =>
      nodes.heartbeat({
        id: this.nodeId,
        name: 'host-1',
        agentUrl,
        version: '1',
        exports: 0,
        connectedExports: 0,
        pools: [{ id: this.poolId, directory: '/pool', ...room }],
      }),
    );
  }

  /** A worker of its own over the database. */
  worker(unitOfWork: UnitOfWork = this.database.unitOfWork): OperationRunner {
    const settings = { overcommitRatio: 10, faultPoints: noFaultPoints };
    const agents = new NodeAgents(unitOfWork, { token: 'token', timeoutMs: 2000 });
    const handlers = new OperationHandlers(
      new CreateVolumeHandler(unitOfWork, agents, settings),
      new DeleteVolumeHandler(unitOfWork, agents, settings),
      new AttachVolumeHandler(unitOfWork, agents, settings),
      new DetachVolumeHandler(unitOfWork, agents, settings),
      new ResizeVolumeHandler(unitOfWork, agents, settings),
      new RevertVolumeHandler(unitOfWork, agents, settings),
      new CreateSnapshotHandler(unitOfWork, agents, settings),
      new StartSnapshotHandler(unitOfWork, agents, settings),
      new CompleteSnapshotHandler(unitOfWork, agents, settings),
      new DeleteSnapshotHandler(unitOfWork, agents, settings),
    );
    const workerId = newId('req');
    return new OperationRunner(unitOfWork, handlers, {
      workerId,
      leaseMs: 60_000,
      faultPoints: noFaultPoints,
    });
  }

  /** A worker that falls asleep between its claim and its first look at the rows, until it is woken. */
  sleepyWorker(): { runner: OperationRunner; asleep: Promise<void>; wake: () => void } {
    let fallAsleep = (): void => undefined;
    let wake = (): void => undefined;
    const asleep = new Promise<void>((resolve) => (fallAsleep = resolve));
    const awake = new Promise<void>((resolve) => (wake = resolve));
    const { unitOfWork: real } = this.database;
    const unitOfWork: UnitOfWork = Object.create(real);
    let reads = 0;
    unitOfWork.read = async (work) => {
      reads += 1;
      if (reads === 2) {
        fallAsleep();
        await awake;
      }
      return real.read(work);
    };
    return { runner: this.worker(unitOfWork), asleep, wake };
  }

  /** Writes an operation down with what else belongs to its beginning. */
  async begin(
    intent: Omit<OperationIntent, 'projectId' | 'requestDigest'>,
    also: (repositories: Repositories) => Promise<unknown>,
  ): Promise<Operation> {
    return this.database.unitOfWork.run(async (repositories) => {
      await also(repositories);
      const whole = { ...intent, projectId: this.projectId, requestDigest: 'digest' } as OperationIntent;
      return (await repositories.operations.insert(whole)).operation;
    });
  }

  /** The same for an operation on a volume. */
  async beginVolume(...begun: Parameters<WorkerFixture['begin']>): Promise<VolumeOperation> {
    return (await this.begin(...begun)) as VolumeOperation;
  }

  async beginCreate(): Promise<VolumeOperation> {
    const id = newId('vol');
    return this.beginVolume(
      { kind: 'create-volume', params: { sizeBytes: MIB }, target: { volumeId: id } },
      ({ volumes }) => volumes.insert({ id, projectId: this.projectId, sizeBytes: MIB }),
    );
  }

  /** A volume that is there. */
  async createdVolume() {
    const { id, target } = await this.beginCreate();
    await this.worker().run(id);
    return this.database.unitOfWork.read(({ volumes }) => volumes.get(this.projectId, target.volumeId));
  }

  expireLease({ id }: Operation) {
    return sql(this.url, `UPDATE operations SET lease_until = now() - interval '1 second' WHERE id = $1`, [
      id,
    ]);
  }

  /** A retry is due at once. */
  makeDue({ id }: Operation) {
    return sql(this.url, `UPDATE operations SET not_before = now() WHERE id = $1`, [id]);
  }

  passDeadline({ id }: Operation) {
    return sql(this.url, `UPDATE operations SET deadline = now() - interval '1 second' WHERE id = $1`, [id]);
  }
}
