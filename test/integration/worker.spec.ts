import { newId, noFaultPoints, type Operation, type OperationIntent, type ProjectId } from '@cairn/domain';
import { Database, type UnitOfWork } from '@cairn/persistence';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { AttachVolumeHandler } from '../../apps/worker/src/handlers/attach-volume.handler.js';
import { CreateVolumeHandler } from '../../apps/worker/src/handlers/create-volume.handler.js';
import { DeleteVolumeHandler } from '../../apps/worker/src/handlers/delete-volume.handler.js';
import { DetachVolumeHandler } from '../../apps/worker/src/handlers/detach-volume.handler.js';
import { NodeAgents } from '../../apps/worker/src/nodes/node.agents.js';
import { OperationHandlers } from '../../apps/worker/src/operations/operation.handlers.js';
import { OperationRunner } from '../../apps/worker/src/operations/operation.runner.js';
import { sql, startPostgres, type TestPostgres } from '../support/databases.js';
import { FakeAgent } from '../support/fake-agent.js';
import { eventually } from './control-plane.fixture.js';

const MIB = 2 ** 20;
const nodeId = newId('node');
const poolId = newId('pool');

let postgres: TestPostgres;
let url: string;
let database: Database;
let agent: FakeAgent;
let projectId: ProjectId;

beforeAll(async () => {
  postgres = await startPostgres();
  url = await postgres.createDatabase();
  database = await Database.open({ url, applicationName: 'test' });
  agent = await FakeAgent.start();
  projectId = (await database.unitOfWork.run(({ projects }) => projects.ensure('test'))).id;
});
afterAll(async () => {
  await agent?.stop();
  await database?.close();
  await postgres?.stop();
});
beforeEach(() => heartbeat(agent.url));
afterEach(() => {
  agent.before = () => undefined;
});

function heartbeat(agentUrl: string): Promise<void> {
  const room = { totalBytes: 2 ** 40, freeBytes: 2 ** 40, provisionedBytes: 0, volumes: 0 };
  return database.unitOfWork.run(({ nodes }) =>
    nodes.heartbeat({
      id: nodeId,
      name: 'host-1',
      agentUrl,
      version: '1',
      exports: 0,
      connectedExports: 0,
      pools: [{ id: poolId, directory: '/pool', ...room }],
    }),
  );
}

/** A worker of its own over the database. */
function worker(unitOfWork: UnitOfWork = database.unitOfWork): OperationRunner {
  const settings = { overcommitRatio: 10, faultPoints: noFaultPoints };
  const agents = new NodeAgents(unitOfWork, { token: 'token', timeoutMs: 2000 });
  const handlers = new OperationHandlers(
    new CreateVolumeHandler(unitOfWork, agents, settings),
    new DeleteVolumeHandler(unitOfWork, agents, settings),
    new AttachVolumeHandler(unitOfWork, agents, settings),
    new DetachVolumeHandler(unitOfWork, agents, settings),
  );
  const workerId = newId('req');
  return new OperationRunner(unitOfWork, handlers, {
    workerId,
    leaseMs: 60_000,
    faultPoints: noFaultPoints,
  });
}

/** A worker that falls asleep between its claim and its first look at the rows, until it is woken. */
function sleepyWorker(): { runner: OperationRunner; asleep: Promise<void>; wake: () => void } {
  let fallAsleep = (): void => undefined;
  let wake = (): void => undefined;
  const asleep = new Promise<void>((resolve) => (fallAsleep = resolve));
  const awake = new Promise<void>((resolve) => (wake = resolve));
  const unitOfWork: UnitOfWork = Object.create(database.unitOfWork);
  let reads = 0;
  unitOfWork.read = async (work) => {
    reads += 1;
    if (reads === 2) {
      fallAsleep();
      await awake;
    }
    return database.unitOfWork.read(work);
  };
  return { runner: worker(unitOfWork), asleep, wake };
}

async function begin(
  intent: Omit<OperationIntent, 'projectId' | 'requestDigest'>,
  also: (unitOfWork: Parameters<Parameters<UnitOfWork['run']>[0]>[0]) => Promise<unknown>,
): Promise<Operation> {
  return database.unitOfWork.run(async (repositories) => {
    await also(repositories);
    const whole = { ...intent, projectId, requestDigest: 'digest' } as OperationIntent;
    return (await repositories.operations.insert(whole)).operation;
  });
}

async function beginCreate(): Promise<Operation> {
  const id = newId('vol');
  return begin(
    { kind: 'create-volume', params: { sizeBytes: MIB }, target: { volumeId: id } },
    ({ volumes }) => volumes.insert({ id, projectId, sizeBytes: MIB }),
  );
}

async function createdVolume() {
  const { id, target } = await beginCreate();
  await worker().run(id);
  const volume = await database.unitOfWork.read(({ volumes }) => volumes.get(projectId, target.volumeId));
  expect(volume).toMatchObject({ state: 'available', nodeId });
  return volume;
}

async function beginAttach(): Promise<Operation> {
  const volume = await createdVolume();
  const attachmentId = newId('att');
  const shape = { generation: 1, readOnly: false, numQueues: 1 };
  return begin(
    { kind: 'attach-volume', params: shape, target: { volumeId: volume.id, attachmentId } },
    async ({ volumes, attachments }) => {
      await volumes.transition(volume, 'attached', { generation: 1 });
      await attachments.insert({ id: attachmentId, projectId, volumeId: volume.id, nodeId, ...shape });
    },
  );
}

async function beginDetach(): Promise<Operation> {
  const attach = await beginAttach();
  await worker().run(attach.id);
  const { target } = attach;
  return begin(
    { kind: 'detach-volume', params: { generation: 1, force: false }, target },
    async ({ attachments }) => {
      const attachment = await attachments.findLive(target.volumeId);
      if (attachment === undefined) throw new Error('not attached');
      await attachments.transition(attachment, 'detach');
    },
  );
}

async function rowsOf({ id, target }: Operation) {
  return database.unitOfWork.read(async ({ volumes, attachments, operations }) => ({
    operation: await operations.get(projectId, id),
    volume: await volumes.get(projectId, target.volumeId),
    attachment: target.attachmentId && (await attachments.findById(target.attachmentId)),
  }));
}

const expireLease = ({ id }: Operation) =>
  sql(url, `UPDATE operations SET lease_until = now() - interval '1 second' WHERE id = $1`, [id]);
const passDeadline = ({ id }: Operation) =>
  sql(url, `UPDATE operations SET deadline = now() - interval '1 second' WHERE id = $1`, [id]);

describe('a worker that sleeps through its lease', () => {
  it('does not delete the volume that another worker has created meanwhile', async () => {
    const operation = await beginCreate();
    const { runner, asleep, wake } = sleepyWorker();
    const run = runner.run(operation.id).catch(() => undefined);
    await asleep;
    await expireLease(operation);
    await worker().run(operation.id);
    wake();
    await run;
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'succeeded' },
      volume: { state: 'available' },
    });
    expect(agent.volumes.get(operation.target.volumeId)).toBe(MIB);
  });

  it('does not cut the export that another worker has opened meanwhile', async () => {
    const operation = await beginAttach();
    const { runner, asleep, wake } = sleepyWorker();
    const run = runner.run(operation.id).catch(() => undefined);
    await asleep;
    await expireLease(operation);
    await worker().run(operation.id);
    wake();
    await run;
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'succeeded' },
      volume: { state: 'in-use' },
      attachment: { state: 'attached' },
    });
    expect(agent.exports.get(operation.target.volumeId)).toMatchObject({ generation: 1 });
  });
});

describe('a create', () => {
  it('keeps its place when a late worker that met a full pool takes it away under the call', async () => {
    const operation = await beginCreate();
    const { volumeId } = operation.target;
    agent.before = async () => {
      await database.unitOfWork.read(({ volumes }) => volumes.unplace(volumeId, nodeId));
      return undefined;
    };
    await worker().run(operation.id);
    expect((await rowsOf(operation)).volume).toMatchObject({ state: 'available', nodeId, poolId });
  });

  it('that passes its deadline ends in error and leaves nothing on the node', async () => {
    const operation = await beginCreate();
    agent.before = (verb) => {
      if (!verb.startsWith('PUT')) return undefined;
      // Done, but the answer does not tell.
      agent.volumes.set(operation.target.volumeId, MIB);
      return 'internal';
    };
    await worker().run(operation.id);
    expect(agent.volumes.has(operation.target.volumeId)).toBe(true);
    await passDeadline(operation);
    await worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'failed', error: { code: 'node-unavailable' } },
      volume: { state: 'error', reason: { code: 'node-unavailable' } },
    });
    expect(agent.volumes.has(operation.target.volumeId)).toBe(false);
  });
});

describe('an attach', () => {
  it('that passes its deadline gives the volume back and leaves no export', async () => {
    const operation = await beginAttach();
    agent.before = (verb) => {
      if (!verb.startsWith('PUT')) return undefined;
      agent.exports.set(operation.target.volumeId, { generation: 1, attachmentId: 'att' });
      return 'internal';
    };
    await worker().run(operation.id);
    await passDeadline(operation);
    await worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'failed' },
      volume: { state: 'available' },
      attachment: { state: 'error', reason: { code: 'node-unavailable' } },
    });
    expect(agent.exports.has(operation.target.volumeId)).toBe(false);
  });
});

describe('a detach', () => {
  it('locks the volume before the attachment, as the API does, so that the two cannot deadlock', async () => {
    const operation = await beginDetach();
    const { volumeId, attachmentId } = operation.target;
    const api = new pg.Client({ connectionString: url });
    await api.connect();
    try {
      await api.query('BEGIN');
      await api.query('SELECT 1 FROM volumes WHERE id = $1 FOR UPDATE', [volumeId]);
      const run = worker().run(operation.id);
      await eventually(
        async () =>
          (await sql(url, `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'`)).length > 0,
      );
      await api.query('SELECT 1 FROM attachments WHERE id = $1 FOR UPDATE NOWAIT', [attachmentId]);
      await api.query('COMMIT');
      await run;
    } finally {
      await api.end();
    }
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'succeeded', attempts: 1 },
      volume: { state: 'available' },
      attachment: { state: 'detached' },
    });
  });

  it('is forced by the request that joins it while it waits for the guest', async () => {
    const operation = await beginDetach();
    agent.before = (verb) => (verb.includes('force=false') ? 'export-busy' : undefined);
    await worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'pending', error: { code: 'export-busy' } },
      attachment: { state: 'busy' },
    });
    await database.unitOfWork.read(({ operations }) => operations.forceDetach(operation.id));
    await worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'succeeded' },
      volume: { state: 'available' },
      attachment: { state: 'detached' },
    });
  });
});
