import { newId } from '@cairn/domain';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sql } from '../support/databases.js';
import { eventually } from './control-plane.fixture.js';
import { MIB, WorkerFixture, type VolumeOperation } from './worker.fixture.js';

let rig: WorkerFixture;

beforeAll(async () => {
  rig = await WorkerFixture.start();
});
afterAll(() => rig?.stop());
beforeEach(() => rig.heartbeat());
afterEach(() => {
  rig.agent.before = () => undefined;
});

async function beginAttach(): Promise<VolumeOperation> {
  const volume = await rig.createdVolume();
  const attachmentId = newId('att');
  const shape = { generation: 1, readOnly: false, numQueues: 1 };
  return rig.beginVolume(
    { kind: 'attach-volume', params: shape, target: { volumeId: volume.id, attachmentId } },
    async ({ volumes, attachments }) => {
      await volumes.transition(volume, 'attached', { generation: 1 });
      await attachments.insert({
        id: attachmentId,
        projectId: rig.projectId,
        volumeId: volume.id,
        nodeId: rig.nodeId,
        ...shape,
      });
    },
  );
}

async function beginDetach(): Promise<VolumeOperation> {
  const attach = await beginAttach();
  await rig.worker().run(attach.id);
  const { target } = attach;
  return rig.beginVolume(
    { kind: 'detach-volume', params: { generation: 1, force: false }, target },
    async ({ attachments }) => {
      const attachment = await attachments.findLive(target.volumeId);
      if (attachment === undefined) throw new Error('not attached');
      await attachments.transition(attachment, 'detach');
    },
  );
}

async function rowsOf({ id, target }: VolumeOperation) {
  return rig.database.unitOfWork.read(async ({ volumes, attachments, operations }) => ({
    operation: await operations.get(rig.projectId, id),
    volume: await volumes.get(rig.projectId, target.volumeId),
    attachment: target.attachmentId && (await attachments.findById(target.attachmentId)),
  }));
}

describe('a worker that sleeps through its lease', () => {
  it('does not delete the volume that another worker has created meanwhile', async () => {
    const operation = await rig.beginCreate();
    const { runner, asleep, wake } = rig.sleepyWorker();
    const run = runner.run(operation.id).catch(() => undefined);
    await asleep;
    await rig.expireLease(operation);
    await rig.worker().run(operation.id);
    wake();
    await run;
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'succeeded' },
      volume: { state: 'available' },
    });
    expect(rig.agent.volumes.get(operation.target.volumeId)).toBe(MIB);
  });

  it('does not cut the export that another worker has opened meanwhile', async () => {
    const operation = await beginAttach();
    const { runner, asleep, wake } = rig.sleepyWorker();
    const run = runner.run(operation.id).catch(() => undefined);
    await asleep;
    await rig.expireLease(operation);
    await rig.worker().run(operation.id);
    wake();
    await run;
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'succeeded' },
      volume: { state: 'in-use' },
      attachment: { state: 'attached' },
    });
    expect(rig.agent.exports.get(operation.target.volumeId)).toMatchObject({ generation: 1 });
  });
});

describe('a create', () => {
  it('keeps its place when a late worker that met a full pool takes it away under the call', async () => {
    const operation = await rig.beginCreate();
    const { volumeId } = operation.target;
    rig.agent.before = async () => {
      await rig.database.unitOfWork.read(({ volumes }) => volumes.unplace(volumeId, rig.nodeId));
      return undefined;
    };
    await rig.worker().run(operation.id);
    expect((await rowsOf(operation)).volume).toMatchObject({
      state: 'available',
      nodeId: rig.nodeId,
      poolId: rig.poolId,
    });
  });

  it('that passes its deadline ends in error and leaves nothing on the node', async () => {
    const operation = await rig.beginCreate();
    rig.agent.before = (verb) => {
      if (!verb.startsWith('PUT')) return undefined;
      // Done, but the answer does not tell.
      rig.agent.volumes.set(operation.target.volumeId, MIB);
      return 'internal';
    };
    await rig.worker().run(operation.id);
    expect(rig.agent.volumes.has(operation.target.volumeId)).toBe(true);
    await rig.passDeadline(operation);
    await rig.worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'failed', error: { code: 'node-unavailable' } },
      volume: { state: 'error', reason: { code: 'node-unavailable' } },
    });
    expect(rig.agent.volumes.has(operation.target.volumeId)).toBe(false);
  });
});

describe('an attach', () => {
  it('that passes its deadline gives the volume back and leaves no export', async () => {
    const operation = await beginAttach();
    rig.agent.before = (verb) => {
      if (!verb.startsWith('PUT')) return undefined;
      rig.agent.exports.set(operation.target.volumeId, { generation: 1, attachmentId: 'att' });
      return 'internal';
    };
    await rig.worker().run(operation.id);
    await rig.passDeadline(operation);
    await rig.worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'failed' },
      volume: { state: 'available' },
      attachment: { state: 'error', reason: { code: 'node-unavailable' } },
    });
    expect(rig.agent.exports.has(operation.target.volumeId)).toBe(false);
  });
});

describe('a detach', () => {
  it('locks the volume before the attachment, as the API does, so that the two cannot deadlock', async () => {
    const operation = await beginDetach();
    const { volumeId, attachmentId } = operation.target;
    const api = new pg.Client({ connectionString: rig.url });
    await api.connect();
    try {
      await api.query('BEGIN');
      await api.query('SELECT 1 FROM volumes WHERE id = $1 FOR UPDATE', [volumeId]);
      const run = rig.worker().run(operation.id);
      await eventually(
        async () =>
          (await sql(rig.url, `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'`)).length > 0,
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
    rig.agent.before = (verb) => (verb.includes('force=false') ? 'export-busy' : undefined);
    await rig.worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'pending', error: { code: 'export-busy' } },
      attachment: { state: 'busy' },
    });
    await rig.database.unitOfWork.read(({ operations }) => operations.forceDetach(operation.id));
    await rig.worker().run(operation.id);
    expect(await rowsOf(operation)).toMatchObject({
      operation: { state: 'succeeded' },
      volume: { state: 'available' },
      attachment: { state: 'detached' },
    });
  });
});
