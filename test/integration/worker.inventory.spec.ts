import { newId, type SnapshotEvent, type SnapshotId } from '@cairn/domain';
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
  rig.agent.snapshots.clear();
  rig.agent.broken = [];
  rig.agent.before = () => undefined;
});

const look = () => inventory.lookAt(rig.nodeId);

/** A snapshot whose row went through these events; it is on the node unless said otherwise. */
async function snapshotAfter(...events: SnapshotEvent[]): Promise<SnapshotId> {
  const { projectId, nodeId, poolId } = rig;
  const id = newId('snap');
  const volumeId = newId('vol');
  await rig.database.unitOfWork.run(async ({ snapshots }) => {
    const own = { id, projectId, volumeId, description: '', tags: {}, sizeBytes: 4096, nodeId, poolId };
    let row = await snapshots.insert(own);
    for (const event of events) row = await snapshots.transition(row, event);
  });
  rig.agent.snapshots.set(id, volumeId);
  return id;
}
const rowOf = async (id: SnapshotId) => {
  const [row] = await rig.database.unitOfWork.read(({ snapshots }) => snapshots.listById([id]));
  return row;
};

describe('the inventory of a node', () => {
  it('leaves alone what is as the rows say, and what is on its way', async () => {
    const ids = [
      await snapshotAfter('completed'),
      await snapshotAfter(),
      await snapshotAfter('completed', 'delete'),
    ];
    const before = await Promise.all(ids.map(rowOf));
    await look();
    expect(await Promise.all(ids.map(rowOf))).toEqual(before);
    expect([...rig.agent.snapshots.keys()]).toEqual(ids);
  });

  it('marks what the node has lost, not what it does not understand, and takes it back when it is found', async () => {
    const id = await snapshotAfter('completed');
    const volumeId = rig.agent.snapshots.get(id)!;
    const completedAt = (await rowOf(id))?.completedAt;
    rig.agent.snapshots.delete(id);
    rig.agent.broken = [id];
    await look();
    expect(await rowOf(id)).toMatchObject({ state: 'completed' });
    rig.agent.broken = [];
    await look();
    expect(await rowOf(id)).toMatchObject({ state: 'error', reason: { code: 'snapshot-lost' } });
    rig.agent.snapshots.set(id, volumeId);
    await look();
    const found = await rowOf(id);
    expect(found).toMatchObject({ state: 'completed', completedAt });
    expect(found?.reason).toBeUndefined();
  });

  it('removes what the rows say is deleted, and nothing that no row knows', async () => {
    const deleted = await snapshotAfter('completed', 'delete', 'removed');
    const unknown = newId('snap');
    rig.agent.snapshots.set(unknown, newId('vol'));
    await look();
    expect([...rig.agent.snapshots.keys()]).toEqual([unknown]);
    expect(await rowOf(deleted)).toMatchObject({ state: 'deleted' });
  });

  it('says nothing about a node that does not answer', async () => {
    const id = await snapshotAfter('completed');
    rig.agent.snapshots.delete(id);
    rig.agent.before = () => 'stopping';
    await expect(look()).rejects.toMatchObject({ code: 'node-unavailable', retryable: true });
    expect(await rowOf(id)).toMatchObject({ state: 'completed' });
  });

  it('takes in what was measured, of volumes and snapshots that there are', async () => {
    const id = await snapshotAfter('completed');
    const volume = await rig.createdVolume();
    const usage = [id, volume.id, newId('vol')].map((each, i) => ({
      id: each,
      uniqueBytes: i * 4096,
      sharedBytes: 2 ** 45,
    }));
    rig.agent.usage = { measuredAt: '2026-01-02T03:04:05.678Z', usage };
    await look();
    const measuredAt = new Date('2026-01-02T03:04:05.678Z');
    expect((await rowOf(id))?.usage).toEqual({ uniqueBytes: 0, sharedBytes: 2 ** 45, measuredAt });
    const { usage: measured } = await rig.database.unitOfWork.read(({ volumes }) =>
      volumes.get(rig.projectId, volume.id),
    );
    expect(measured).toEqual({ uniqueBytes: 4096, sharedBytes: 2 ** 45, measuredAt });
  });

  it('gives each node to one of several workers', async () => {
    const claim = () => rig.database.unitOfWork.read(({ nodes }) => nodes.claimInventory(60_000));
    const claimed = await Promise.all([claim(), claim(), claim()]);
    expect(claimed.flat()).toEqual([rig.nodeId]);
  });
});
