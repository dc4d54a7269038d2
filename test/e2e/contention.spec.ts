import { MIB, newId } from '@cairn/domain';
import { AgentError } from '@cairn/agent';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { sql } from '../support/databases.js';
import type { AttachmentView, OperationView, VolumeView } from '../support/rest-client.js';
import { emptyNode, queueKinds, Stack } from '../support/stack.js';

const parallel = 20;
const times = <Value>(act: (index: number) => Promise<Value>): Promise<Value[]> =>
  Promise.all(Array.from({ length: parallel }, (_, index) => act(index)));

describe.each(queueKinds)('two of everything, queue in %s', (queue) => {
  let stack: Stack;
  const clientOf = (index: number) => stack.clients[index % stack.clients.length]!;

  beforeAll(async () => {
    stack = await Stack.start({ queue, controlPlanes: 2, workers: 2 });
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  it('makes each of many volumes once, and one volume of many requests with one token', async () => {
    const created = await times((index) => clientOf(index).startCreate(MIB));
    await Promise.all(created.map(({ operation }) => stack.api.succeeded(operation)));
    const ids = created.map(({ volume }) => volume.id);
    expect(new Set(ids).size).toBe(parallel);
    expect((await stack.nodeContents()).volumes).toEqual([...ids].sort());

    const clientToken = newId('req');
    const same = await times((index) => clientOf(index).startCreate(MIB, clientToken));
    expect(new Set(same.map(({ operation }) => operation.id)).size).toBe(1);
    expect(new Set(same.map(({ volume }) => volume.id)).size).toBe(1);
    await stack.api.succeeded(same[0]!.operation);
    ids.push(same[0]!.volume.id);
    expect((await stack.nodeContents()).volumes).toHaveLength(parallel + 1);

    const removed = await Promise.all(ids.map((id, index) => clientOf(index).startDelete(id)));
    await Promise.all(removed.map(({ operation }) => stack.api.succeeded(operation)));
    expect(await stack.nodeContents()).toEqual(emptyNode);
    // Nobody took what another worker had: a second attempt has its reason (a node that was slow to answer, say), and
    // with 20 at once on a busy machine few have one.
    const [{ again } = { again: -1 }] = await sql<{ again: number }>(
      stack.databaseUrl,
      'SELECT count(*)::int AS again FROM operations WHERE attempts > 1',
    );
    expect(again).toBeLessThanOrEqual(parallel / 4);
  });

  it('gives a volume to exactly one of many attaches, and ends it once for many detaches', async () => {
    const volume = await stack.api.createVolume(MIB);
    const answers = await times((index) =>
      clientOf(index).send<{ operation: OperationView; attachment: AttachmentView; code?: string }>(
        'POST',
        `/v1/volumes/${volume.id}/attachments`,
        {},
      ),
    );
    const winners = answers.filter(({ status }) => status === 202);
    expect(answers.map(({ status }) => status).sort((a, b) => a - b)).toEqual([
      202,
      ...Array(parallel - 1).fill(409),
    ]);
    await stack.api.succeeded(winners[0]!.body.operation);
    const attachment = await stack.api.attachment(winners[0]!.body.attachment);
    expect(attachment.state).toBe('attached');
    expect(await stack.agent.listExports()).toMatchObject([{ attachmentId: attachment.id, generation: 1 }]);

    const detaches = await times((index) => clientOf(index).startDetach(attachment));
    expect(new Set(detaches.map(({ operation }) => operation.id)).size).toBe(1);
    await stack.api.succeeded(detaches[0]!.operation);
    expect(await stack.api.volume(volume.id)).toMatchObject({
      state: 'available',
    } satisfies Partial<VolumeView>);
    await stack.api.deleteVolume(volume.id);
  });

  it('refuses on the node what an older generation asks for', async () => {
    const volume = await stack.api.createVolume(MIB);
    const first = await stack.api.attach(volume.id);
    await stack.api.detach(first);
    const second = await stack.api.attach(volume.id);
    const { agent } = stack;
    const codeOf = (call: Promise<unknown>) =>
      call.then(
        () => 'done',
        (error: unknown) => (error instanceof AgentError ? error.code : String(error)),
      );
    const asked = { attachmentId: newId('att'), generation: first.generation, readOnly: false, numQueues: 1 };
    const [served] = await agent.listExports();
    const volumeId = served!.volumeId;
    expect(await codeOf(agent.putExport(volumeId, asked))).toBe('stale-generation');
    expect(await codeOf(agent.deleteExport(volumeId, { generation: first.generation, force: true }))).toBe(
      'stale-generation',
    );
    expect(await agent.listExports()).toMatchObject([
      { attachmentId: second.id, generation: second.generation },
    ]);
    // Restarting the node does not make it forget.
    await stack.dataPlane.kill();
    await stack.dataPlane.start();
    expect(await codeOf(agent.putExport(volumeId, asked))).toBe('stale-generation');
    await stack.api.detach(second);
    await stack.api.deleteVolume(volume.id);
  });

  it.each(['kill', 'stop'] as const)(
    'loses nothing when one of two workers gets a %s under load',
    async (end) => {
      const worker = stack.workers[1]!;
      const created = await times(async (index) => {
        const started = await clientOf(index).startCreate(MIB);
        if (index === parallel / 2) void worker[end]();
        return started;
      });
      await Promise.all(created.map(({ operation }) => stack.api.succeeded(operation)));
      expect((await stack.nodeContents()).volumes).toHaveLength(parallel);
      expect(await worker.exited()).toEqual(
        end === 'kill' ? { code: null, signal: 'SIGKILL' } : { code: 0, signal: null },
      );
      await worker.start();
      const removed = await Promise.all(
        created.map(({ volume }, index) => clientOf(index).startDelete(volume.id)),
      );
      await Promise.all(removed.map(({ operation }) => stack.api.succeeded(operation)));
      expect(await stack.nodeContents()).toEqual(emptyNode);
    },
  );
});
