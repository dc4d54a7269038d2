import { newId, type FaultPoints, type VolumeId } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { sql } from '../support/databases.js';
import { ControlPlaneFixture, type Answer } from './control-plane.fixture.js';

let api: ControlPlaneFixture;
let crash = false;
const faultPoints: FaultPoints = {
  reach: () => {
    if (crash) throw new Error('crashed');
  },
};
beforeAll(async () => {
  api = await ControlPlaneFixture.start('postgres', faultPoints);
});
afterEach(() => {
  crash = false;
});
afterAll(() => api?.stop());

const take = (volumeId: string, body: object = {}, headers: Record<string, string> = {}) =>
  api.request('POST', `/v1/volumes/${volumeId}/snapshots`, { body, headers });
const takeGroup = (volumeIds: unknown, body: object = {}) =>
  api.request('POST', '/v1/snapshots/group', { body: { volumeIds, ...body } });
const taken = async (volumeId: string, body: object = {}): Promise<string> => {
  const answer = await take(volumeId, body);
  await api.finish(answer.body.operation.id);
  return answer.body.snapshot.id;
};
const codeOf = ({ status, body }: Answer) => `${status} ${body.code} ${body.retryable}`;

describe('a snapshot', () => {
  it('goes from taken to forgotten', async () => {
    const volumeId = await api.availableVolume();
    const answer = await take(volumeId, {
      name: 'monday',
      description: 'Before it',
      tags: { keep: 'a week' },
    });
    expect(answer.status).toBe(202);
    expect(answer.headers.get('location')).toBe(`/v1/operations/${answer.body.operation.id}`);
    const { id } = answer.body.snapshot;
    expect(answer.body).toMatchObject({
      operation: { kind: 'create-snapshot', state: 'pending', target: { volumeId, snapshotId: id } },
      snapshot: {
        volumeId,
        name: 'monday',
        description: 'Before it',
        tags: { keep: 'a week' },
        sizeBytes: 1 << 20,
        state: 'pending',
        progress: 0,
      },
    });
    expect(answer.body.snapshot.groupId).toBeUndefined();
    expect(codeOf(await api.request('DELETE', `/v1/snapshots/${id}`))).toBe('409 snapshot-wrong-state true');
    await api.finish(answer.body.operation.id);
    expect((await api.request('GET', `/v1/snapshots/${id}`)).body).toMatchObject({
      state: 'completed',
      progress: 100,
      completedAt: expect.any(String),
    });

    // Its volume may go first.
    await api.finish((await api.request('DELETE', `/v1/volumes/${volumeId}`)).body.operation.id);
    const deletion = await api.request('DELETE', `/v1/snapshots/${id}`);
    expect(deletion.status).toBe(202);
    expect(deletion.body).toMatchObject({
      operation: { kind: 'delete-snapshot', target: { snapshotId: id } },
      snapshot: { state: 'deleting' },
    });
    const joined = await api.request('DELETE', `/v1/snapshots/${id}`);
    expect([joined.status, joined.body.operation.id]).toEqual([202, deletion.body.operation.id]);
    await api.finish(deletion.body.operation.id);
    const late = await api.request('DELETE', `/v1/snapshots/${id}`);
    expect([late.status, late.body.operation.id]).toEqual([200, deletion.body.operation.id]);

    const ids = async (path: string) =>
      (await api.request('GET', path)).body.snapshots.map((each: { id: string }) => each.id);
    expect(await ids('/v1/snapshots')).not.toContain(id);
    expect(await ids('/v1/snapshots?state=deleted')).toContain(id);
    await sql(api.databaseUrl, `UPDATE snapshots SET deleted_at = now() - interval '2 hours' WHERE id = $1`, [
      id,
    ]);
    expect(codeOf(await api.request('GET', `/v1/snapshots/${id}`))).toBe('404 snapshot-not-found false');
    expect(await ids('/v1/snapshots?state=deleted')).not.toContain(id);
    expect(await api.database.unitOfWork.read(({ snapshots }) => snapshots.purgeDeleted())).toBe(1);
  });

  it('of a volume that has no bytes yet, or none any more, is refused with the states', async () => {
    const { body } = await api.request('POST', '/v1/volumes', { body: { sizeBytes: 1 << 20 } });
    const creating = await take(body.volume.id);
    expect(codeOf(creating)).toBe('409 volume-wrong-state true');
    expect(creating.body).toMatchObject({ currentState: 'creating', allowedStates: ['available', 'in-use'] });
    await api.finish(body.operation.id);
    const deletion = await api.request('DELETE', `/v1/volumes/${body.volume.id}`);
    expect(codeOf(await take(body.volume.id))).toBe('409 volume-wrong-state false');
    await api.finish(deletion.body.operation.id);
    expect(codeOf(await take(newId('vol')))).toBe('404 volume-not-found false');
  });

  it('keeps its volume from being deleted until it is taken', async () => {
    const volumeId = await api.availableVolume();
    const { body } = await take(volumeId);
    expect(codeOf(await api.request('DELETE', `/v1/volumes/${volumeId}`))).toBe('409 volume-busy true');
    await api.finish(body.operation.id);
    expect((await api.request('DELETE', `/v1/volumes/${volumeId}`)).status).toBe(202);
  });

  it('is one under one token, also for requests at once, and another under other parameters', async () => {
    const volumeId = await api.availableVolume();
    const headers = { 'idempotency-key': 'the-token' };
    const answers = await Promise.all([1, 2, 3, 4].map(() => take(volumeId, { name: 'n' }, headers)));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    expect(new Set(answers.map(({ body }) => body.snapshot.id)).size).toBe(1);
    expect(codeOf(await take(volumeId, { name: 'other' }, headers))).toBe(
      '409 idempotent-parameter-mismatch false',
    );
    const [row] = await sql(
      api.databaseUrl,
      `SELECT count(*)::int AS n FROM snapshots WHERE volume_id = $1`,
      [volumeId],
    );
    expect(row).toEqual({ n: 1 });
    await api.finish(answers[0]!.body.operation.id);
    const path = `/v1/snapshots/${answers[0]!.body.snapshot.id}`;
    const deletions = await Promise.all(
      [1, 2, 3].map(() => api.request('DELETE', path, { headers: { 'idempotency-key': 'gone' } })),
    );
    expect(new Set(deletions.map(({ body }) => body.operation.id)).size).toBe(1);
    expect(codeOf(await api.request('DELETE', path, { headers }))).toBe(
      '409 idempotent-parameter-mismatch false',
    );
  });

  it('of another project is not there', async () => {
    const id = await taken(await api.availableVolume());
    const other = { key: api.otherKey };
    expect((await api.request('GET', `/v1/snapshots/${id}`, other)).status).toBe(404);
    expect((await api.request('DELETE', `/v1/snapshots/${id}`, other)).status).toBe(404);
    expect((await api.request('GET', '/v1/snapshots', other)).body.snapshots).toEqual([]);
  });

  it('is written down although the process dies before it nudges', async () => {
    const volumeId = await api.availableVolume();
    crash = true;
    expect((await take(volumeId)).status).toBe(500);
    crash = false;
    const { body } = await api.request('GET', `/v1/snapshots?volumeId=${volumeId}`);
    expect(body.snapshots).toMatchObject([{ state: 'pending' }]);
  });

  it('lists by volume, group and state, a page at a time', async () => {
    const volumeId = await api.availableVolume();
    const ids: string[] = [];
    for (let i = 0; i < 5; i += 1) ids.unshift(await taken(volumeId));
    const seen: string[] = [];
    let token: string | undefined;
    do {
      const query: string = token === undefined ? '' : `&pageToken=${token}`;
      const { body } = await api.request('GET', `/v1/snapshots?volumeId=${volumeId}&limit=2${query}`);
      seen.push(...body.snapshots.map((each: { id: string }) => each.id));
      token = body.nextPageToken;
    } while (token !== undefined);
    expect(seen).toEqual(ids);
    const none = await api.request('GET', `/v1/snapshots?volumeId=${volumeId}&state=pending,error`);
    expect(none.body.snapshots).toEqual([]);
  });

  it.each([
    { name: '' },
    { name: 'x'.repeat(256) },
    { description: 'x'.repeat(1025) },
    { description: 5 },
    { tags: [] },
    { tags: { '': 'x' } },
    { tags: { key: 5 } },
    { tags: { key: 'x'.repeat(257) } },
    { tags: { ['k'.repeat(129)]: 'x' } },
    { tags: Object.fromEntries(Array.from({ length: 51 }, (_, i) => [`k${i}`, 'x'])) },
    { tags: { constructor: 'x' } },
    { tags: null },
    { sizeBytes: 1 },
    { clientToken: 'with space' },
  ])('with %j is refused before anything is written', async (body) => {
    expect(codeOf(await take(newId('vol'), body))).toBe('400 invalid-request false');
  });
});

describe('a group of snapshots', () => {
  it('is one operation and all or none of the rows', async () => {
    const volumeIds = [await api.availableVolume(), await api.availableVolume()];
    const answer = await takeGroup(volumeIds, { name: 'both', tags: { a: 'b' } });
    expect(answer.status).toBe(202);
    const { groupId } = answer.body.operation.target;
    expect(answer.body.operation.target).toEqual({ groupId });
    expect(answer.body.snapshots).toMatchObject(
      volumeIds.map((volumeId) => ({ volumeId, groupId, name: 'both', tags: { a: 'b' }, state: 'pending' })),
    );
    await api.finish(answer.body.operation.id);
    const { body } = await api.request('GET', `/v1/snapshots?groupId=${groupId}`);
    expect(body.snapshots.map((each: { state: string }) => each.state)).toEqual(['completed', 'completed']);

    const creating = (await api.request('POST', '/v1/volumes', { body: { sizeBytes: 1 << 20 } })).body.volume;
    expect(codeOf(await takeGroup([...volumeIds, creating.id]))).toBe('409 volume-wrong-state true');
    expect(codeOf(await takeGroup([...volumeIds, newId('vol')]))).toBe('404 volume-not-found false');
    const [row] = await sql(
      api.databaseUrl,
      `SELECT count(*)::int AS n FROM snapshots WHERE group_id <> $1`,
      [groupId],
    );
    expect(row).toEqual({ n: 0 });
  });

  it('of volumes on several nodes is refused, and says which is where', async () => {
    const here = await api.availableVolume();
    const { place } = api;
    api.place = { nodeId: newId('node'), poolId: newId('pool') };
    const there = await api.availableVolume();
    const answer = await takeGroup([here, there]);
    expect(codeOf(answer)).toBe('400 invalid-request false');
    expect(answer.body.detail).toContain(`${there} on ${api.place.nodeId}`);
    expect(answer.body.errors).toMatchObject([{ field: 'volumeIds' }]);
    api.place = place;
  });

  it('asked for in opposite orders at once does not deadlock', async () => {
    const volumeIds: VolumeId[] = [];
    for (let i = 0; i < 6; i += 1) volumeIds.push((await api.availableVolume()) as VolumeId);
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, i) => takeGroup(i % 2 ? volumeIds.toReversed() : volumeIds)),
    );
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202));
    const [row] = await sql(
      api.databaseUrl,
      `SELECT count(DISTINCT group_id)::int AS groups, count(*)::int AS n FROM snapshots WHERE volume_id = ANY ($1)`,
      [volumeIds],
    );
    expect(row).toEqual({ groups: 12, n: 72 });
  });

  it.each([
    [[]],
    ['vol-0123456789abcdef'],
    [['vol-0123456789abcdef', 'vol-0123456789abcdef']],
    [['vol-1']],
    [[{ id: 'vol-0123456789abcdef' }]],
    [Array.from({ length: 65 }, () => newId('vol'))],
    [undefined],
  ])('of %j is refused', async (volumeIds: unknown) => {
    expect(codeOf(await takeGroup(volumeIds))).toBe('400 invalid-request false');
  });
});
