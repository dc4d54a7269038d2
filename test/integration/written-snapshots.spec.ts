import { DataTickets, newId, type SnapshotId } from '@cairn/domain';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ControlPlaneFixture, type Answer } from './control-plane.fixture.js';

const MIB = 2 ** 20;
const checksum = Buffer.alloc(32, 1).toString('base64');
let api: ControlPlaneFixture;

beforeAll(async () => {
  api = await ControlPlaneFixture.start('postgres');
  const { nodeId: id, poolId } = api.place;
  const room = { totalBytes: 2 ** 40, freeBytes: 2 ** 40, provisionedBytes: 0, volumes: 0, lowSpace: false };
  await api.database.unitOfWork.run(({ nodes }) =>
    nodes.heartbeat({
      id,
      name: 'host-1',
      agentUrl: 'http://node.test:7401',
      version: '1',
      exports: 0,
      connectedExports: 0,
      pools: [{ id: poolId, directory: '/pool', ...room }],
    }),
  );
});
afterAll(() => api?.stop());

const start = (body: object = {}) =>
  api.request('POST', '/v1/snapshots', { body: { sizeBytes: MIB, ...body } });
const started = async (body: object = {}): Promise<SnapshotId> => {
  const answer = await start(body);
  await api.finish(answer.body.operation.id);
  return answer.body.snapshot.id;
};
const complete = (id: string, body: object = {}) =>
  api.request('POST', `/v1/snapshots/${id}/complete`, { body: { changedBlocks: 1, ...body } });
const upload = (id: string) => api.request('GET', `/v1/snapshots/${id}/upload`);
const shown = async (id: string) => (await api.request('GET', `/v1/snapshots/${id}`)).body;
const remove = (id: string) => api.request('DELETE', `/v1/snapshots/${id}`);
const codeOf = ({ status, body }: Answer) => `${status} ${body.code} ${body.retryable}`;

describe('a snapshot that is written from blocks', () => {
  it('is started, filled by ticket, completed, and the origin of volumes and of others', async () => {
    const answer = await start({ name: 'from afar', description: 'x', tags: { a: 'b' }, timeoutMinutes: 10 });
    const { id } = answer.body.snapshot;
    expect(answer.status).toBe(202);
    expect(answer.body).toMatchObject({
      operation: { kind: 'start-snapshot', target: { snapshotId: id } },
      snapshot: { state: 'pending', writing: 'starting', progress: 0, sizeBytes: MIB, tags: { a: 'b' } },
    });
    expect(answer.body.snapshot.volumeId ?? answer.body.snapshot.nodeId).toBeUndefined();
    for (const early of [await upload(id), await complete(id), await remove(id)])
      expect(codeOf(early)).toBe('409 snapshot-busy true');
    await api.finish(answer.body.operation.id);
    expect(await shown(id)).toMatchObject({ state: 'pending', writing: 'open', nodeId: api.place.nodeId });

    const { status, body, headers } = await upload(id);
    expect([status, headers.get('cache-control')]).toEqual([200, 'no-store']);
    const [, ticket] = /^http:\/\/node\.test:7401\/v1\/data\/([^/]+)\/blocks$/.exec(body.url) ?? [];
    const opened = new DataTickets(api.joinToken).open(ticket!);
    expect(opened).toEqual({ access: 'write', snapshotId: id, expiresAt: Date.parse(body.expiresAt) });
    expect(body.blockBytes).toBe(524_288);

    const completion = await complete(id, { checksum });
    expect(completion.body).toMatchObject({
      operation: { kind: 'complete-snapshot' },
      snapshot: { writing: 'completing' },
    });
    expect(codeOf(await upload(id))).toBe('409 snapshot-busy true');
    await api.finish(completion.body.operation.id);
    const done = await shown(id);
    expect(done).toMatchObject({ state: 'completed', progress: 100 });
    expect(done.writing).toBeUndefined();
    for (const late of [await upload(id), await complete(id)])
      expect(codeOf(late)).toBe('409 snapshot-wrong-state false');

    const volume = await api.request('POST', '/v1/volumes', { body: { snapshotId: id } });
    expect(volume.body.volume).toMatchObject({ sizeBytes: MIB, nodeId: api.place.nodeId });
    expect(codeOf(await remove(id))).toBe('409 snapshot-in-use true');
    await api.finish(volume.body.operation.id);
    const revert = await api.request('POST', `/v1/volumes/${volume.body.volume.id}/revert`, {
      body: { snapshotId: id },
    });
    expect(revert.body).toMatchObject({
      code: 'invalid-request',
      detail: expect.stringContaining('no volume'),
    });

    const child = await start({ parentSnapshotId: id, sizeBytes: 2 * MIB });
    expect(child.body.snapshot).toMatchObject({ parentSnapshotId: id, nodeId: api.place.nodeId });
    expect(codeOf(await remove(id))).toBe('409 snapshot-in-use true');
    await api.finish(child.body.operation.id);
    expect((await remove(id)).status).toBe(202);
    const orphan = await start({ parentSnapshotId: id });
    expect(codeOf(orphan)).toBe('409 snapshot-wrong-state false');

    const listed = await api.request('GET', '/v1/snapshots?state=pending');
    expect(listed.body.snapshots).toMatchObject([{ id: child.body.snapshot.id, writing: 'open' }]);
  });

  it('is cancelled by its deletion, also while it is being completed', async () => {
    const id = await started();
    const completion = await complete(id);
    const deletion = await remove(id);
    expect(deletion.body.snapshot).toMatchObject({ state: 'deleting' });
    expect(deletion.body.snapshot.writing).toBeUndefined();
    expect(codeOf(await upload(id))).toBe('409 snapshot-wrong-state false');
    await expect(api.finish(completion.body.operation.id)).rejects.toMatchObject({
      code: 'snapshot-wrong-state',
    });
    await api.finish(deletion.body.operation.id);
    expect(await shown(id)).toMatchObject({ state: 'deleted' });
  });

  it('is one under one token, also for requests at once, and so is its completion', async () => {
    const parentSnapshotId = await started();
    await api.finish((await complete(parentSnapshotId)).body.operation.id);
    for (const body of [{}, { parentSnapshotId }]) {
      const clientToken = newId('req');
      const answers = await Promise.all([1, 2, 3].map(() => start({ ...body, clientToken })));
      expect(new Set(answers.map((each) => each.body.snapshot.id)).size).toBe(1);
      expect(codeOf(await start({ ...body, clientToken, timeoutMinutes: 61 }))).toBe(
        '409 idempotent-parameter-mismatch false',
      );
      await api.finish(answers[0]!.body.operation.id);
      const { id } = answers[0]!.body.snapshot;
      const token = newId('req');
      const ends = await Promise.all([1, 2].map(() => complete(id, { clientToken: token })));
      expect(new Set(ends.map((each) => each.body.operation.id)).size).toBe(1);
      expect(codeOf(await complete(id, { clientToken: token, changedBlocks: 2 }))).toBe(
        '409 idempotent-parameter-mismatch false',
      );
    }
  });

  it.each([
    [{ sizeBytes: 4097 }, 'sizeBytes'],
    [{ sizeBytes: undefined }, 'sizeBytes'],
    [{ timeoutMinutes: 9 }, 'timeoutMinutes'],
    [{ timeoutMinutes: 4321 }, 'timeoutMinutes'],
    [{ parentSnapshotId: 'snap-1' }, 'parentSnapshotId'],
    [{ tags: { '': 'x' } }, 'tags'],
    [{ volumeId: newId('vol') }, 'volumeId'],
  ])('is refused as %j', async (body, field) => {
    const answer = await start(body);
    expect(codeOf(answer)).toBe('400 invalid-request false');
    expect(answer.body.errors).toMatchObject([{ field }]);
  });

  it('is not smaller than its parent, nor of the parent of another project', async () => {
    const parentSnapshotId = await started({ sizeBytes: 2 * MIB });
    expect(codeOf(await start({ parentSnapshotId, sizeBytes: 4 * MIB }))).toBe(
      '409 snapshot-wrong-state true',
    );
    await api.finish((await complete(parentSnapshotId)).body.operation.id);
    const smaller = await start({ parentSnapshotId });
    expect(smaller.body.errors).toEqual([
      { field: 'sizeBytes', message: 'must not be less than the 2097152 of the parent' },
    ]);
    const foreign = { key: api.otherKey, body: { sizeBytes: 4 * MIB, parentSnapshotId } };
    expect(codeOf(await api.request('POST', '/v1/snapshots', foreign))).toBe('404 snapshot-not-found false');
  });

  it.each([
    [{ changedBlocks: -1 }, 'changedBlocks'],
    [{ changedBlocks: 1, checksum: 'abc' }, 'checksum'],
  ])('is not completed with %j', async (body, field) => {
    const answer = await complete(newId('snap'), body);
    expect(codeOf(answer)).toBe('400 invalid-request false');
    expect(answer.body.errors).toMatchObject([{ field }]);
  });

  it('has no blocks to read, and none to put, unless it is one', async () => {
    const id = await started();
    expect(codeOf(await api.request('GET', `/v1/snapshots/${id}/blocks`))).toBe(
      '409 snapshot-wrong-state true',
    );
    const volumeId = await api.availableVolume();
    const taken = await api.request('POST', `/v1/volumes/${volumeId}/snapshots`, { body: {} });
    for (const answer of [await upload(taken.body.snapshot.id), await complete(taken.body.snapshot.id)])
      expect(codeOf(answer)).toMatch('409 snapshot-wrong-state');
    expect(codeOf(await upload(newId('snap')))).toBe('404 snapshot-not-found false');
  });
});
