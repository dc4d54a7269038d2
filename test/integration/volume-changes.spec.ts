import { newId } from '@cairn/domain';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sql } from '../support/databases.js';
import { ControlPlaneFixture, type Answer } from './control-plane.fixture.js';

const MIB = 1 << 20;
let api: ControlPlaneFixture;
beforeAll(async () => {
  api = await ControlPlaneFixture.start('postgres');
});
afterAll(() => api?.stop());

const post = (path: string, body: object, headers: Record<string, string> = {}) =>
  api.request('POST', path, { body, headers });
const codeOf = ({ status, body }: Answer) => `${status} ${body.code} ${body.retryable}`;
const finish = async (answer: Promise<Answer>) => {
  const { body } = await answer;
  await api.finish(body.operation.id);
  return body;
};
const snapshotOf = async (volumeId: string): Promise<string> =>
  (await finish(post(`/v1/volumes/${volumeId}/snapshots`, {}))).snapshot.id;

describe('a volume with a source', () => {
  it('is placed where its source is, with its size or a larger one', async () => {
    const volumeId = await api.availableVolume();
    const snapshotId = await snapshotOf(volumeId);
    const { nodeId } = api.place;
    const own = await post('/v1/volumes', { snapshotId });
    expect(own.status).toBe(202);
    expect(own.body.volume).toMatchObject({ sizeBytes: MIB, snapshotId, nodeId, state: 'creating' });
    const larger = await post('/v1/volumes', { sourceVolumeId: volumeId, sizeBytes: 2 * MIB });
    expect(larger.body.volume).toMatchObject({ sizeBytes: 2 * MIB, sourceVolumeId: volumeId, nodeId });
    const [row] = await sql(api.databaseUrl, 'SELECT params FROM operations WHERE id = $1', [
      larger.body.operation.id,
    ]);
    expect(row).toEqual({ params: { sizeBytes: 2 * MIB, source: { volumeId } } });
  });

  it('keeps its source until it is there, and not longer', async () => {
    const volumeId = await api.availableVolume();
    const snapshotId = await snapshotOf(volumeId);
    const [clone, copy] = await Promise.all([
      post('/v1/volumes', { sourceVolumeId: volumeId }),
      post('/v1/volumes', { snapshotId }),
    ]);
    expect(codeOf(await api.request('DELETE', `/v1/volumes/${volumeId}`))).toBe('409 volume-busy true');
    expect(codeOf(await api.request('DELETE', `/v1/snapshots/${snapshotId}`))).toBe(
      '409 snapshot-in-use true',
    );
    expect(codeOf(await post(`/v1/volumes/${volumeId}/resize`, { sizeBytes: 2 * MIB }))).toBe(
      '409 volume-busy true',
    );
    await api.finish(clone.body.operation.id);
    await api.finish(copy.body.operation.id);
    await finish(api.request('DELETE', `/v1/volumes/${volumeId}`));
    await finish(api.request('DELETE', `/v1/snapshots/${snapshotId}`));
    const { body } = await api.request('GET', `/v1/volumes/${copy.body.volume.id}`);
    expect(body).toMatchObject({ state: 'available', snapshotId });
  });

  it('is one under one token, also for requests at once', async () => {
    const sourceVolumeId = await api.availableVolume();
    const headers = { 'idempotency-key': 'one-clone' };
    const answers = await Promise.all([1, 2, 3].map(() => post('/v1/volumes', { sourceVolumeId }, headers)));
    expect(answers.map(({ status }) => status)).toEqual([202, 202, 202]);
    expect(new Set(answers.map(({ body }) => body.volume.id)).size).toBe(1);
    expect(codeOf(await post('/v1/volumes', { sizeBytes: MIB }, headers))).toBe(
      '409 idempotent-parameter-mismatch false',
    );
  });

  it('is refused for a source that is not there, not ready, not yours or larger', async () => {
    const volumeId = await api.availableVolume();
    const { body } = await post(`/v1/volumes/${volumeId}/snapshots`, {});
    const { id: snapshotId } = body.snapshot;
    expect(codeOf(await post('/v1/volumes', { snapshotId }))).toBe('409 snapshot-wrong-state true');
    await api.finish(body.operation.id);
    expect(codeOf(await post('/v1/volumes', { snapshotId: newId('snap') }))).toBe(
      '404 snapshot-not-found false',
    );
    expect(codeOf(await post('/v1/volumes', { sourceVolumeId: newId('vol') }))).toBe(
      '404 volume-not-found false',
    );
    const foreign = await api.request('POST', '/v1/volumes', { body: { snapshotId }, key: api.otherKey });
    expect(codeOf(foreign)).toBe('404 snapshot-not-found false');
    const large = await api.availableVolume(4 * MIB);
    const small = await post('/v1/volumes', { sourceVolumeId: large, sizeBytes: 2 * MIB });
    expect(codeOf(small)).toBe('400 invalid-request false');
    expect(small.body.errors).toEqual([
      { field: 'sizeBytes', message: `must not be less than the ${4 * MIB} of the source` },
    ]);
    for (const body of [
      { snapshotId, sourceVolumeId: large },
      {},
      { snapshotId: 'snap-1' },
      { sourceVolumeId: 5 },
    ]) {
      expect(codeOf(await post('/v1/volumes', body)), JSON.stringify(body)).toBe('400 invalid-request false');
    }
    await api.attached(large);
    expect((await post('/v1/volumes', { sourceVolumeId: large })).status).toBe(202);
  });
});

describe('a resize', () => {
  it('goes beside the life of the volume, one at a time, and only up', async () => {
    const id = await api.availableVolume();
    await api.attached(id);
    const path = `/v1/volumes/${id}/resize`;
    const answer = await post(path, { sizeBytes: 2 * MIB });
    expect(answer.status).toBe(202);
    expect(answer.body).toMatchObject({
      operation: { kind: 'resize-volume', target: { volumeId: id } },
      volume: { state: 'in-use', sizeBytes: MIB, modification: { kind: 'resize', state: 'modifying' } },
    });
    const busy = await post(path, { sizeBytes: 3 * MIB });
    expect(codeOf(busy)).toBe('409 volume-busy true');
    expect(busy.body).toMatchObject({
      currentState: 'modifying',
      allowedStates: ['none', 'completed', 'failed'],
    });
    await api.finish(answer.body.operation.id);
    expect((await api.request('GET', `/v1/volumes/${id}`)).body).toMatchObject({
      sizeBytes: 2 * MIB,
      modification: { kind: 'resize', state: 'completed' },
    });
    const less = await post(path, { sizeBytes: MIB });
    expect(codeOf(less)).toBe('400 invalid-request false');
    expect(less.body.errors).toMatchObject([{ field: 'sizeBytes' }]);
    for (const sizeBytes of [0, 1.5, MIB + 1, '1', null, undefined]) {
      expect(codeOf(await post(path, { sizeBytes }))).toBe('400 invalid-request false');
    }
    expect((await post(path, { sizeBytes: 2 * MIB })).status).toBe(202);
  });

  it('holds off what would meet it half done', async () => {
    const id = await api.availableVolume();
    const answer = await post(
      `/v1/volumes/${id}/resize`,
      { sizeBytes: 2 * MIB },
      { 'idempotency-key': 'grow' },
    );
    const busy = [
      post(`/v1/volumes/${id}/attachments`, {}),
      post(`/v1/volumes/${id}/snapshots`, {}),
      post('/v1/volumes', { sourceVolumeId: id }),
      api.request('DELETE', `/v1/volumes/${id}`),
    ];
    expect((await Promise.all(busy)).map(codeOf)).toEqual(busy.map(() => '409 volume-busy true'));
    const again = await post(
      `/v1/volumes/${id}/resize`,
      { sizeBytes: 2 * MIB },
      { 'idempotency-key': 'grow' },
    );
    expect(again.body.operation.id).toBe(answer.body.operation.id);
  });
});

describe('a revert', () => {
  it('takes a generation of its own, which no attachment has', async () => {
    const id = await api.availableVolume();
    const snapshotId = await snapshotOf(id);
    const answer = await post(`/v1/volumes/${id}/revert`, { snapshotId });
    expect(answer.status).toBe(202);
    expect(answer.body).toMatchObject({
      operation: { kind: 'revert-volume', target: { volumeId: id, snapshotId } },
      volume: { modification: { kind: 'revert', state: 'modifying' } },
    });
    expect(codeOf(await api.request('DELETE', `/v1/snapshots/${snapshotId}`))).toBe(
      '409 snapshot-in-use true',
    );
    expect(codeOf(await post(`/v1/volumes/${id}/attachments`, {}))).toBe('409 volume-busy true');
    await api.finish(answer.body.operation.id);
    const attach = await post(`/v1/volumes/${id}/attachments`, {});
    expect(attach.body.attachment.generation).toBe(2);
    const [row] = await sql(api.databaseUrl, 'SELECT params FROM operations WHERE id = $1', [
      answer.body.operation.id,
    ]);
    expect(row).toEqual({ params: { generation: 1 } });
    expect(codeOf(await post(`/v1/volumes/${id}/revert`, { snapshotId }))).toBe(
      '409 volume-wrong-state false',
    );
  });

  it('needs a snapshot of the very volume, completed', async () => {
    const [id, other] = [await api.availableVolume(), await api.availableVolume()];
    const foreign = await post(`/v1/volumes/${id}/revert`, { snapshotId: await snapshotOf(other) });
    expect(codeOf(foreign)).toBe('400 invalid-request false');
    expect(foreign.body.errors).toMatchObject([{ field: 'snapshotId' }]);
    expect(codeOf(await post(`/v1/volumes/${id}/revert`, { snapshotId: newId('snap') }))).toBe(
      '404 snapshot-not-found false',
    );
    expect(codeOf(await post(`/v1/volumes/${id}/revert`, {}))).toBe('400 invalid-request false');
  });
});
