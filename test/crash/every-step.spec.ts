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
const resizeSteps = [
  'store.grow.file-grown',
  'store.grow.layer-written',
  'store.grow.volume-written',
  'data-plane.before-answer',
] as const;
const revertSteps = [
  'store.revert.layer-made',
  'store.revert.head-named',
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

  it('clones, resizes and reverts once although workers die at every step of each', async () => {
    const { api, worker } = stack;
    const { id } = await api.createVolume(MIB);
    const snapshot = await api.takeSnapshot(id);
    const clone = await bench.dieAtEach(worker, workerSteps, () => api.startClone({ sourceVolumeId: id }));
    await bench.succeeds(clone.operation);
    const resize = await bench.dieAtEach(worker, workerSteps, () => api.startResize(id, 2 * MIB));
    await bench.succeeds(resize.operation);
    const revert = await bench.dieAtEach(worker, workerSteps, () => api.startRevert(id, snapshot.id));
    await bench.succeeds(revert.operation);
    expect(await api.volume(id)).toMatchObject({ state: 'available', sizeBytes: 2 * MIB });
    await api.deleteSnapshot(snapshot.id);
    for (const each of [id, clone.volume.id]) await bench.succeeds((await api.startDelete(each)).operation);
    await bench.expectSettled();
  });

  it('clones, resizes and reverts once although the node dies at every step of each', async () => {
    const { api, dataPlane } = stack;
    const { id } = await api.createVolume(MIB);
    const snapshot = await api.takeSnapshot(id);
    const copy = await bench.dieAtEach(
      dataPlane,
      ['store.clone.layer-made', 'store.clone.volume-written'],
      () => api.startClone({ snapshotId: snapshot.id }),
    );
    await bench.succeeds(copy.operation);
    const clone = await bench.dieAtEach(
      dataPlane,
      ['store.snapshot.completed', 'store.clone.layer-made', 'data-plane.before-answer'],
      () => api.startClone({ sourceVolumeId: id }),
    );
    await bench.succeeds(clone.operation);
    const resize = await bench.dieAtEach(dataPlane, resizeSteps, () => api.startResize(id, 2 * MIB));
    await bench.succeeds(resize.operation);
    const revert = await bench.dieAtEach(dataPlane, revertSteps, () => api.startRevert(id, snapshot.id));
    await bench.succeeds(revert.operation);
    expect(await api.volume(id)).toMatchObject({ state: 'available', sizeBytes: 2 * MIB });
    await api.deleteSnapshot(snapshot.id);
    for (const each of [id, copy.volume.id, clone.volume.id]) {
      await bench.succeeds((await api.startDelete(each)).operation);
    }
    await bench.expectSettled();
  });
});
