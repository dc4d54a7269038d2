// The most telling steps; test/crash has every step of every verb.
import { MIB, newId } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { CrashBench } from '../support/crash-bench.js';
import { queueKinds, Stack } from '../support/stack.js';

describe.each(queueKinds)('killed processes, queue in %s', (queue) => {
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

  it('ends a create and an attach once when the worker is killed in the middle of each', async () => {
    const { api, worker } = stack;
    const create = await bench.dieAt(worker, 'worker.after-agent-call', () => api.startCreate(MIB));
    await bench.succeeds(create.operation);
    const { id } = create.volume;
    expect(await stack.nodeContents()).toMatchObject({ volumes: [id], exports: [], sockets: [] });
    expect(await api.volume(id)).toMatchObject({ state: 'available' });

    const attach = await bench.dieAt(worker, 'worker.after-agent-call', () => api.startAttach(id));
    await bench.succeeds(attach.operation);
    expect(await stack.nodeContents()).toMatchObject({ exports: [id], sockets: [`${id}.sock`] });
    const attachment = await api.attachment(attach.attachment);
    expect(attachment.state).toBe('attached');
    await bench.serves(attachment.connection?.socketPath);
    await api.detach(attachment);
    await api.deleteVolume(id);
    await bench.expectSettled();
  });

  it('ends a create once when the API is killed between its commit and its nudge', async () => {
    const { controlPlane, api } = stack;
    await controlPlane.stop();
    await controlPlane.start({ CAIRN_FAULT_POINT: 'control-plane.after-commit-before-nudge' });
    const clientToken = newId('req');
    await expect(api.startCreate(MIB, clientToken)).rejects.toThrow();
    expect(await controlPlane.exited()).toEqual({ code: null, signal: 'SIGKILL' });
    await controlPlane.start();
    // The caller does not know what happened, and asks again with its token.
    const { operation, volume } = await api.startCreate(MIB, clientToken);
    await bench.succeeds(operation);
    expect((await stack.nodeContents()).volumes).toEqual([volume.id]);
    await api.deleteVolume(volume.id);
    await bench.expectSettled();
  });

  it('ends an attach once when the data plane is killed in the middle of it', async () => {
    const { api, dataPlane } = stack;
    const { id } = await api.createVolume(MIB);
    const attach = await bench.dieAt(dataPlane, 'data-plane.after-remember', () => api.startAttach(id));
    await bench.succeeds(attach.operation);
    const attachment = await api.attachment(attach.attachment);
    await bench.serves(attachment.connection?.socketPath);
    await api.detach(attachment);
    await api.deleteVolume(id);
    await bench.expectSettled();
  });
});
