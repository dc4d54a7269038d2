import { newId, type SnapshotId } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { WorkerFixture } from './worker.fixture.js';

let rig: WorkerFixture;

beforeAll(async () => {
  rig = await WorkerFixture.start();
});
afterAll(() => rig?.stop());
beforeEach(() => rig.heartbeat());
afterEach(() => {
  rig.agent.before = () => undefined;
});

/** Begins a group of two. */
async function beginTake() {
  const volumes = [await rig.createdVolume(), await rig.createdVolume()];
  const snapshotIds = volumes.map(() => newId('snap'));
  const groupId = newId('grp');
  const operation = await rig.begin(
    { kind: 'create-snapshot', params: { snapshotIds }, target: { groupId } },
    async ({ snapshots }) => {
      const { projectId, nodeId, poolId } = rig;
      for (const [i, { id: volumeId, sizeBytes }] of volumes.entries()) {
        const own = { id: snapshotIds[i]!, projectId, volumeId, groupId, description: '', tags: {} };
        await snapshots.insert({ ...own, sizeBytes, nodeId, poolId });
      }
    },
  );
  return { operation, snapshotIds };
}

const beginDelete = (snapshotId: SnapshotId) =>
  rig.begin({ kind: 'delete-snapshot', params: {}, target: { snapshotId } }, async ({ snapshots }) => {
    await snapshots.transition(await snapshots.get(rig.projectId, snapshotId), 'delete');
  });

const statesOf = async (ids: readonly SnapshotId[]) =>
  (await rig.database.unitOfWork.read(({ snapshots }) => snapshots.listById(ids))).map(
    ({ state, reason }) => state + (reason ? ` ${reason.code}` : ''),
  );
const operationOf = ({ id }: { id: `op-${string}` }) =>
  rig.database.unitOfWork.read(({ operations }) => operations.get(rig.projectId, id));

describe('a group of snapshots', () => {
  it('is taken with one call, and again after an answer that was lost', async () => {
    const { operation, snapshotIds } = await beginTake();
    let calls = 0;
    rig.agent.before = (verb) => {
      if (!verb.startsWith('PUT /v1/snapshots')) return undefined;
      calls += 1;
      return calls === 1 ? 'timeout' : undefined;
    };
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({
      state: 'pending',
      error: { code: 'agent-unreachable' },
    });
    expect(await statesOf(snapshotIds)).toEqual(['pending', 'pending']);
    await rig.makeDue(operation);
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({ state: 'succeeded', progress: 100 });
    expect(await statesOf(snapshotIds)).toEqual(['completed', 'completed']);
    expect(calls).toBe(2);
    expect(snapshotIds.every((id) => rig.agent.snapshots.has(id))).toBe(true);
  });

  it('that the node refuses ends in error, with the reason on each and nothing on the node', async () => {
    const { operation, snapshotIds } = await beginTake();
    rig.agent.before = (verb) => {
      if (!verb.startsWith('PUT')) return undefined;
      // One was taken before.
      rig.agent.snapshots.set(snapshotIds[0]!, 'vol-0123456789abcdef');
      return 'snapshot-exists';
    };
    await rig.worker().run(operation.id);
    expect(await operationOf(operation)).toMatchObject({ state: 'failed', error: { code: 'agent-refused' } });
    expect(await statesOf(snapshotIds)).toEqual(['error agent-refused', 'error agent-refused']);
    expect(snapshotIds.some((id) => rig.agent.snapshots.has(id))).toBe(false);

    // One in error is deleted like any other.
    const deletion = await beginDelete(snapshotIds[0]!);
    await rig.worker().run(deletion.id);
    expect(await statesOf(snapshotIds.slice(0, 1))).toEqual(['deleted']);
  });

  it('is not removed by a worker that slept through its lease', async () => {
    const { operation, snapshotIds } = await beginTake();
    const { runner, asleep, wake } = rig.sleepyWorker();
    const run = runner.run(operation.id).catch(() => undefined);
    await asleep;
    await rig.expireLease(operation);
    await rig.worker().run(operation.id);
    wake();
    await run;
    expect(await operationOf(operation)).toMatchObject({ state: 'succeeded' });
    expect(await statesOf(snapshotIds)).toEqual(['completed', 'completed']);
    expect(snapshotIds.every((id) => rig.agent.snapshots.has(id))).toBe(true);
  });
});

describe('the deletion of a snapshot', () => {
  it('takes it from the node, and at its deadline leaves it in error with the reason', async () => {
    const { operation, snapshotIds } = await beginTake();
    await rig.worker().run(operation.id);
    const [first, second] = await Promise.all(snapshotIds.map(beginDelete));
    await rig.worker().run(first!.id);
    expect(await statesOf(snapshotIds)).toEqual(['deleted', 'deleting']);
    expect(rig.agent.snapshots.has(snapshotIds[0]!)).toBe(false);

    rig.agent.before = () => 'storage-failed';
    await rig.worker().run(second!.id);
    await rig.passDeadline(second!);
    await rig.worker().run(second!.id);
    expect(await operationOf(second!)).toMatchObject({
      state: 'failed',
      error: { code: 'pool-unavailable' },
    });
    expect(await statesOf(snapshotIds)).toEqual(['deleted', 'error pool-unavailable']);
  });
});
