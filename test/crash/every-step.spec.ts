import { faultPointNames, MIB } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { CrashBench } from '../support/crash-bench.js';
import { queueKinds, Stack } from '../support/stack.js';

const everyWorkerStep = faultPointNames.filter((name) => name.startsWith('worker.'));
const tellingSteps = ['worker.after-claim', 'worker.after-agent-call'] as const;

describe.each(queueKinds)('a kill at every step, queue in %s', (queue) => {
  // What differs between the queues is what becomes of a dead worker's job, which is the same at all steps.
  const workerSteps = queue === 'postgres' ? everyWorkerStep : [...tellingSteps];
  const stepsAfterPlacement = workerSteps.filter((name) => name !== 'worker.after-placement');
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

  it.each(workerSteps)('ends a create once when the worker dies at %s', async (step) => {
    const { operation, volume } = await bench.dieAt(stack.worker, step, () => stack.api.startCreate(MIB));
    await bench.succeeds(operation);
    expect(await stack.nodeContents()).toMatchObject({ volumes: [volume.id], exports: [], sockets: [] });
    await stack.api.deleteVolume(volume.id);
    await bench.expectSettled();
  });

  it.each(stepsAfterPlacement)('ends an attach once when the worker dies at %s', async (step) => {
    const { id } = await stack.api.createVolume(MIB);
    const { operation, attachment } = await bench.dieAt(stack.worker, step, () => stack.api.startAttach(id));
    await bench.succeeds(operation);
    const { connection } = await stack.api.attachment(attachment);
    await bench.serves(connection?.socketPath);
    await stack.api.detach(attachment);
    await stack.api.deleteVolume(id);
    await bench.expectSettled();
  });

  it.each(tellingSteps)('ends a detach and a delete once when the worker dies at %s', async (step) => {
    const { id } = await stack.api.createVolume(MIB);
    const attachment = await stack.api.attach(id);
    const detach = await bench.dieAt(stack.worker, step, () => stack.api.startDetach(attachment));
    await bench.succeeds(detach.operation);
    const removal = await bench.dieAt(stack.worker, step, () => stack.api.startDelete(id));
    await bench.succeeds(removal.operation);
    await bench.expectSettled();
  });

  it('ends an attach and a delete once when the data plane dies between remembering and doing', async () => {
    const { api, dataPlane } = stack;
    const { id } = await api.createVolume(MIB);
    const attach = await bench.dieAt(dataPlane, 'data-plane.after-remember', () => api.startAttach(id));
    await bench.succeeds(attach.operation);
    const attachment = await api.attachment(attach.attachment);
    await bench.serves(attachment.connection?.socketPath);
    await api.detach(attachment);
    const removal = await bench.dieAt(dataPlane, 'data-plane.after-remember', () => api.startDelete(id));
    await bench.succeeds(removal.operation);
    await bench.expectSettled();
  });

  it('ends every verb once when the data plane dies between doing and answering', async () => {
    const { api, dataPlane } = stack;
    const step = 'data-plane.before-answer';
    const create = await bench.dieAt(dataPlane, step, () => api.startCreate(MIB));
    await bench.succeeds(create.operation);
    const { id } = create.volume;
    const attach = await bench.dieAt(dataPlane, step, () => api.startAttach(id));
    await bench.succeeds(attach.operation);
    const attachment = await api.attachment(attach.attachment);
    await bench.serves(attachment.connection?.socketPath);
    const detach = await bench.dieAt(dataPlane, step, () => api.startDetach(attachment));
    await bench.succeeds(detach.operation);
    const removal = await bench.dieAt(dataPlane, step, () => api.startDelete(id));
    await bench.succeeds(removal.operation);
    await bench.expectSettled();
  });
});
