import { newId, type Operation, type SnapshotId } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { NodeAgents } from '../../apps/worker/src/nodes/node.agents.js';
import { NodeInventory } from '../../apps/worker/src/nodes/node.inventory.js';
import { WorkerFixture } from './worker.fixture.js';

let rig: WorkerFixture;
let inventory: NodeInventory;

beforeAll(async () => {
  rig = await WorkerFixture.start();
  const { unitOfWork } = rig.database;
  const agents = new NodeAgents(unitOfWork, { token: 'token', timeoutMs: 2000 });
  inventory = new NodeInventory(unitOfWork, agents, { inventoryMs: 1000 });
});
afterAll(() => rig?.stop());
beforeEach(() => rig.heartbeat());
afterEach(() => {
  rig.agent.before = () => undefined;
});

const beginStart = async (parentSnapshotId?: SnapshotId) => {
  const snapshotId = newId('snap');
  const parent = parentSnapshotId === undefined ? {} : { parentSnapshotId };
  const operation = await rig.begin(
    { kind: 'start-snapshot', params: { timeoutMinutes: 10, ...parent }, target: { snapshotId } },
    ({ snapshots }) =>
      snapshots.insert({
        id: snapshotId,
        projectId: rig.projectId,
        description: '',
        tags: {},
        sizeBytes: 4096,
        writing: 'starting',
        ...parent,
        ...(parentSnapshotId === undefined ? {} : { nodeId: rig.nodeId, poolId: rig.poolId }),
      }),
  );
  return { operation, snapshotId };
};
const started = async (): Promise<SnapshotId> => {
  const { operation, snapshotId } = await beginStart();
  await rig.worker().run(operation.id);
  return snapshotId;
};
const rowOf = async (id: SnapshotId) => {
  const [row] = await rig.database.unitOfWork.read(({ snapshots }) => snapshots.listById([id]));
  return row!;
};
const beginComplete = (snapshotId: SnapshotId) =>
  rig.begin(
    { kind: 'complete-snapshot', params: { changedBlocks: 1 }, target: { snapshotId } },
    async ({ snapshots }) => snapshots.moveWriting(await rowOf(snapshotId), 'complete'),
  );
const beginDelete = (snapshotId: SnapshotId) =>
  rig.begin({ kind: 'delete-snapshot', params: {}, target: { snapshotId } }, async ({ snapshots }) =>
    snapshots.transition(await rowOf(snapshotId), 'cancel'),
  );
const operationOf = ({ id }: Operation) =>
  rig.database.unitOfWork.read(({ operations }) => operations.get(rig.projectId, id));
const refuse = (
  verb: RegExp,
  code: 'pool-full' | 'snapshot-not-found' | 'checksum-mismatch' | 'snapshot-busy',
) => {
  rig.agent.before = (each) => (verb.test(each) ? code : undefined);
};

describe('the start of a snapshot that is written from blocks', () => {
  it('chooses a place, and tells the node size, limit and parent', async () => {
    const parent = await started();
    const { operation, snapshotId } = await beginStart(parent);
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({ state: 'succeeded' });
    expect(rig.agent.writingRequests.slice(-2)).toEqual([
      { id: parent, sizeBytes: 4096, timeoutMs: 600_000 },
      { id: snapshotId, sizeBytes: 4096, timeoutMs: 600_000, parentSnapshotId: parent },
    ]);
    const { nodeId, poolId } = rig;
    expect(await rowOf(parent)).toMatchObject({ state: 'pending', writing: 'open', nodeId, poolId });
  });

  it('gives its place up when the pool is full, and at its deadline ends in error', async () => {
    const { operation, snapshotId } = await beginStart();
    refuse(/writing$/, 'pool-full');
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({ state: 'pending', error: { code: 'pool-full' } });
    expect((await rowOf(snapshotId)).nodeId).toBeUndefined();
    await rig.passDeadline(operation);
    await rig.worker().run(operation.id);
    const row = await rowOf(snapshotId);
    expect(row).toMatchObject({ state: 'error', reason: { code: 'pool-full' } });
    expect(row.writing).toBeUndefined();
  });

  it('is taken back on the node when it fails', async () => {
    const { operation, snapshotId } = await beginStart(newId('snap'));
    rig.agent.writing.set(snapshotId, undefined);
    refuse(/writing$/, 'snapshot-not-found');
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({ state: 'failed', error: { code: 'agent-refused' } });
    expect(rig.agent.writing.has(snapshotId)).toBe(false);
  });
});

describe('the completion of a snapshot that is written from blocks', () => {
  it('is asked for again while the node reads what was put', async () => {
    const snapshotId = await started();
    const operation = await beginComplete(snapshotId);
    refuse(/completion$/, 'snapshot-busy');
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({ state: 'pending' });
    rig.agent.before = () => undefined;
    await rig.makeDue(operation);
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({ state: 'succeeded' });
    expect(await rowOf(snapshotId)).toMatchObject({ state: 'completed', completedAt: expect.any(Date) });
  });

  it('fails when other blocks were put, and leaves it open', async () => {
    const snapshotId = await started();
    const operation = await beginComplete(snapshotId);
    refuse(/completion$/, 'checksum-mismatch');
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({
      state: 'failed',
      error: { code: 'checksum-mismatch' },
    });
    expect(await rowOf(snapshotId)).toMatchObject({ state: 'pending', writing: 'open' });
    expect(rig.agent.writing.has(snapshotId)).toBe(true);
  });

  it('of one that the node has no more leaves it in error', async () => {
    const snapshotId = await started();
    const operation = await beginComplete(snapshotId);
    refuse(/completion$/, 'snapshot-not-found');
    await rig.worker().run(operation.id);
    expect(await rowOf(snapshotId)).toMatchObject({ state: 'error', reason: { code: 'agent-refused' } });
  });

  it('of one that was deleted meanwhile ends, whichever comes first', async () => {
    const first = await started();
    const completion = await beginComplete(first);
    const deletion = await beginDelete(first);
    await rig.worker().run(deletion.id);
    await rig.worker().run(completion.id);
    expect(await operationOf(completion)).toMatchObject({ state: 'failed' });
    expect(await rowOf(first)).toMatchObject({ state: 'deleted' });

    const second = await started();
    const late = await beginComplete(second);
    let deleting: Operation | undefined;
    rig.agent.before = async (verb) => {
      // Between the node's completion and the row's.
      if (verb.endsWith('completion')) deleting = await beginDelete(second);
      return undefined;
    };
    await rig.worker().run(late.id);
    await rig.worker().run(deleting!.id);
    await rig.makeDue(late);
    await rig.worker().run(late.id);
    expect(await operationOf(late)).toMatchObject({ state: 'failed' });
    expect(await rowOf(second)).toMatchObject({ state: 'deleted' });
    expect(rig.agent.snapshots.has(second)).toBe(false);
  });
});

describe('the inventory of a node', () => {
  it('takes in how far those are that are written, and which have expired', async () => {
    const [here, gone] = [await started(), await started()];
    const starting = (await beginStart(here)).snapshotId;
    rig.agent.writing.set(here, 42);
    rig.agent.writing.delete(gone);
    await inventory.lookAt(rig.nodeId);
    expect(await rowOf(here)).toMatchObject({ state: 'pending', writing: 'open', progress: 42 });
    expect(await rowOf(gone)).toMatchObject({ state: 'error', reason: { code: 'snapshot-expired' } });
    expect(await rowOf(starting)).toMatchObject({ state: 'pending', writing: 'starting' });
    // It is never found again, whatever the node says.
    rig.agent.writing.set(gone, undefined);
    await inventory.lookAt(rig.nodeId);
    expect(await rowOf(gone)).toMatchObject({ state: 'error' });
  });

  it('removes what was cancelled and is still there', async () => {
    const id = await started();
    await rig.worker().run((await beginDelete(id)).id);
    rig.agent.writing.set(id, undefined);
    await inventory.lookAt(rig.nodeId);
    expect(rig.agent.writing.has(id)).toBe(false);
  });
});
