import { faultPointNames, MIB } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { CrashBench } from '../support/crash-bench.js';
import { queueKinds, Stack } from '../support/stack.js';

const createSteps = faultPointNames.filter((name) => name.startsWith('worker.'));
/** Only a create chooses a place. */
const workerSteps = createSteps.filter((name) => name !== 'worker.after-placement');
/** What the store does for a snapshot, up to the answer. */
const takeSteps = [
  'store.snapshot.layer-made',
  'store.snapshot.pending-written',
  'store.snapshot.head-named',
  'store.snapshot.switched',
  'store.snapshot.completed-one',
  // A group of which one is completed is completed when the pool is opened next.
  'data-plane.before-answer',
] as const;
const nodeSteps = ['data-plane.after-remember', 'data-plane.before-answer'] as const;

// Each operation meets every step in turn: a worker (or node) that dies at the first, one that takes over and dies at
// the second, and so on, until one lives.
describe.each(queueKinds)('a kill at every step, queue in %s', (queue) => {
  let stack: Stack;
  let bench: CrashBench;

  beforeAll(async () => {
    stack = await Stack.start({ queue });
    bench = new CrashBench(stack);
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  it('ends create, attach, detach and delete once although workers die at every step of each', async () => {
    const { api, worker } = stack;
    const create = await bench.dieAtEach(worker, createSteps, () => api.startCreate(MIB));
    await bench.succeeds(create.operation);
    const { id } = create.volume;
    expect(await stack.nodeContents()).toMatchObject({ volumes: [id], exports: [], sockets: [] });

    const attach = await bench.dieAtEach(worker, workerSteps, () => api.startAttach(id));
    await bench.succeeds(attach.operation);
    const attachment = await api.attachment(attach.attachment);
    expect(await stack.nodeContents()).toMatchObject({ exports: [id], sockets: [`${id}.sock`] });
    await bench.serves(attachment.connection?.socketPath);

    const detach = await bench.dieAtEach(worker, workerSteps, () => api.startDetach(attachment));
    await bench.succeeds(detach.operation);
    const removal = await bench.dieAtEach(worker, workerSteps, () => api.startDelete(id));
    await bench.succeeds(removal.operation);
    await bench.expectSettled();
  });

  it('ends create, attach, detach and delete once although the node dies at every step of each', async () => {
    const { api, dataPlane } = stack;
    const create = await bench.dieAtEach(dataPlane, ['data-plane.before-answer'], () => api.startCreate(MIB));
    await bench.succeeds(create.operation);
    const { id } = create.volume;

    const attach = await bench.dieAtEach(dataPlane, nodeSteps, () => api.startAttach(id));
    await bench.succeeds(attach.operation);
    const attachment = await api.attachment(attach.attachment);
    await bench.serves(attachment.connection?.socketPath);

    const detach = await bench.dieAtEach(dataPlane, ['data-plane.before-answer'], () =>
      api.startDetach(attachment),
    );
    await bench.succeeds(detach.operation);
    const removal = await bench.dieAtEach(dataPlane, nodeSteps, () => api.startDelete(id));
    await bench.succeeds(removal.operation);
    await bench.expectSettled();
  });

  it('takes and deletes a group of snapshots once although workers die at every step of each', async () => {
    const { api, worker } = stack;
    const ids = [(await api.createVolume(MIB)).id, (await api.createVolume(MIB)).id];
    const take = await bench.dieAtEach(worker, workerSteps, () => api.startGroup(ids));
    await bench.succeeds(take.operation);
    const taken = take.snapshots.map(({ id }) => id);
    expect((await stack.nodeContents()).snapshots).toEqual(taken.toSorted());
    for (const id of taken) expect(await api.snapshot(id)).toMatchObject({ state: 'completed' });

    for (const id of ids) await bench.succeeds((await api.startDelete(id)).operation);
    const [first = '', ...others] = taken;
    const removal = await bench.dieAtEach(worker, workerSteps, () => api.startDeleteSnapshot(first));
    await bench.succeeds(removal.operation);
    for (const id of others) await bench.succeeds((await api.startDeleteSnapshot(id)).operation);
    await bench.expectSettled();
  });

  it('takes and deletes a group of snapshots once although the node dies at every step of each', async () => {
    const { api, dataPlane } = stack;
    const ids = [(await api.createVolume(MIB)).id, (await api.createVolume(MIB)).id];
    const take = await bench.dieAtEach(dataPlane, takeSteps, () => api.startGroup(ids));
    await bench.succeeds(take.operation);
    const taken = take.snapshots.map(({ id }) => id);
    expect((await stack.nodeContents()).snapshots).toEqual(taken.toSorted());

    const again = await bench.dieAt(dataPlane, 'store.snapshot.completed', () => api.startGroup(ids));
    await bench.succeeds(again.operation);
    taken.push(...again.snapshots.map(({ id }) => id));

    const [first = '', ...others] = taken;
    const steps = ['store.delete-snapshot.removed', 'data-plane.before-answer'] as const;
    const removal = await bench.dieAtEach(dataPlane, steps, () => api.startDeleteSnapshot(first));
    await bench.succeeds(removal.operation);
    for (const id of others) await bench.succeeds((await api.startDeleteSnapshot(id)).operation);
    for (const id of ids) await bench.succeeds((await api.startDelete(id)).operation);
    await bench.expectSettled();
  });
});
