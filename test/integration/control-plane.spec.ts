import type { FaultPoints } from '@cairn/domain';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { sql } from '../support/databases.js';
import { ControlPlaneFixture, eventually, queueKinds } from './control-plane.fixture.js';

const GIB = 2 ** 30;

describe.each(queueKinds)('the control plane with its queue on %s', (kind) => {
  let api: ControlPlaneFixture;
  let crash = false;
  // In this process a crash is a throw: the request dies where the process would.
  const faultPoints: FaultPoints = {
    reach: () => {
      if (crash) throw new Error('crashed');
    },
  };
  beforeAll(async () => {
    api = await ControlPlaneFixture.start(kind, faultPoints);
  });
  afterAll(() => api?.stop());

  const create = (body: object = {}, headers: Record<string, string> = {}) =>
    api.request('POST', '/v1/volumes', { body: { sizeBytes: GIB, ...body }, headers });

  it('takes a volume through its whole life', async () => {
    const created = await create({ name: 'disk' });
    expect(created.status).toBe(202);
    expect(created.headers.get('location')).toBe(`/v1/operations/${created.body.operation.id}`);
    expect(created.body).toMatchObject({
      operation: { kind: 'create-volume', state: 'pending', progress: 0, attempts: 0 },
      volume: { name: 'disk', sizeBytes: GIB, state: 'creating', attachments: [] },
    });
    const { id } = created.body.volume;
    expect(created.body.operation.target).toEqual({ volumeId: id });
    await api.finish(created.body.operation.id);
    const operation = await api.request('GET', created.headers.get('location')!);
    expect(operation.body).toMatchObject({ state: 'succeeded', progress: 100, attempts: 1 });
    expect(operation.body.finishedAt).toMatch(/Z$/);
    expect((await api.request('GET', `/v1/volumes/${id}`)).body.state).toBe('available');

    const attach = await api.request('POST', `/v1/volumes/${id}/attachments`, {
      body: { instanceId: 'vm-1', readOnly: true, numQueues: 4 },
    });
    expect(attach.status).toBe(202);
    expect(attach.body).toMatchObject({
      operation: { kind: 'attach-volume', target: { volumeId: id, attachmentId: attach.body.attachment.id } },
      attachment: { volumeId: id, instanceId: 'vm-1', state: 'attaching', generation: 1, readOnly: true },
    });
    expect(attach.body.attachment.connection).toBeUndefined();
    const path = `/v1/volumes/${id}/attachments/${attach.body.attachment.id}`;
    expect((await api.request('GET', `/v1/volumes/${id}`)).body).toMatchObject({
      state: 'in-use',
      attachments: [{ state: 'attaching' }],
    });
    await api.finish(attach.body.operation.id);
    expect((await api.request('GET', path)).body).toMatchObject({
      state: 'attached',
      connection: { type: 'vhost-user-blk', socketPath: '/s', serial: id, numQueues: 1 },
    });

    const detach = await api.request('DELETE', path);
    expect(detach.status).toBe(202);
    expect(detach.body).toMatchObject({
      operation: { kind: 'detach-volume' },
      attachment: { state: 'detaching' },
    });
    const again = await api.request('DELETE', path);
    expect(again.status).toBe(202);
    expect(again.body.operation.id).toBe(detach.body.operation.id);
    await api.finish(detach.body.operation.id);
    const gone = await api.request('DELETE', path);
    expect(gone.status).toBe(200);
    expect(gone.body).toMatchObject({
      operation: { id: detach.body.operation.id, state: 'succeeded' },
      attachment: { state: 'detached' },
    });

    const deletion = await api.request('DELETE', `/v1/volumes/${id}`);
    expect(deletion.status).toBe(202);
    expect(deletion.body).toMatchObject({
      operation: { kind: 'delete-volume' },
      volume: { state: 'deleting' },
    });
    const joined = await api.request('DELETE', `/v1/volumes/${id}`);
    expect([joined.status, joined.body.operation.id]).toEqual([202, deletion.body.operation.id]);
    await api.finish(deletion.body.operation.id);
    const late = await api.request('DELETE', `/v1/volumes/${id}`);
    expect([late.status, late.body.operation.id]).toEqual([200, deletion.body.operation.id]);

    expect((await api.request('GET', `/v1/volumes/${id}`)).body).toMatchObject({
      state: 'deleted',
      deletedAt: expect.any(String),
    });
    const listed = (path: string) =>
      api.request('GET', path).then(({ body }) => body.volumes.map((volume: { id: string }) => volume.id));
    expect(await listed('/v1/volumes')).not.toContain(id);
    expect(await listed('/v1/volumes?state=deleted')).toContain(id);
    await sql(api.databaseUrl, `UPDATE volumes SET deleted_at = now() - interval '2 hours' WHERE id = $1`, [
      id,
    ]);
    expect((await api.request('GET', `/v1/volumes/${id}`)).status).toBe(404);
    expect((await api.request('DELETE', `/v1/volumes/${id}`)).status).toBe(404);
    expect(await listed('/v1/volumes?state=deleted')).not.toContain(id);
  });

  it('pages through volumes', async () => {
    const made: string[] = [];
    for (let i = 0; i < 5; i += 1) made.unshift((await create()).body.volume.id);
    const seen: string[] = [];
    let token: string | undefined;
    do {
      const query: string = token === undefined ? '' : `&pageToken=${token}`;
      const { body } = await api.request('GET', `/v1/volumes?limit=2&state=creating,available${query}`);
      seen.push(...body.volumes.map((volume: { id: string }) => volume.id));
      token = body.nextPageToken;
    } while (token !== undefined && seen.length < made.length);
    expect(seen.slice(0, made.length)).toEqual(made);
  });

  describe('wrong states are 409 with the states', () => {
    it('attaching and deleting a volume that is created is refused, and worth a retry', async () => {
      const { body } = await create();
      for (const answer of [
        await api.request('POST', `/v1/volumes/${body.volume.id}/attachments`, { body: {} }),
        await api.request('DELETE', `/v1/volumes/${body.volume.id}`),
      ]) {
        expect(answer.status).toBe(409);
        expect(answer.body).toMatchObject({
          code: 'volume-wrong-state',
          currentState: 'creating',
          retryable: true,
        });
      }
    });

    it('deleting or attaching an attached volume is refused, and a retry does not help', async () => {
      const volume = await api.availableVolume();
      const attachment = await api.attached(volume);
      const deletion = await api.request('DELETE', `/v1/volumes/${volume}`);
      expect(deletion.status).toBe(409);
      expect(deletion.body).toMatchObject({
        code: 'volume-in-use',
        currentState: 'in-use',
        allowedStates: ['available', 'error'],
        retryable: false,
      });
      const second = await api.request('POST', `/v1/volumes/${volume}/attachments`, { body: {} });
      expect(second.status).toBe(409);
      expect(second.body).toMatchObject({
        code: 'volume-in-use',
        currentState: 'in-use',
        allowedStates: ['available'],
      });
      expect((await api.request('GET', `/v1/volumes/${volume}/attachments`)).body.attachments).toMatchObject([
        { id: attachment },
      ]);
    });

    it('attaching a deleting or deleted volume is refused', async () => {
      const volume = await api.availableVolume();
      const { body } = await api.request('DELETE', `/v1/volumes/${volume}`);
      for (const currentState of ['deleting', 'deleted']) {
        const answer = await api.request('POST', `/v1/volumes/${volume}/attachments`, { body: {} });
        expect(answer.status).toBe(409);
        expect(answer.body).toMatchObject({
          code: 'volume-wrong-state',
          currentState,
          allowedStates: ['available'],
          retryable: false,
        });
        if (currentState === 'deleting') await api.finish(body.operation.id);
      }
    });

    it('detaching what is still attaching is refused, and worth a retry', async () => {
      const volume = await api.availableVolume();
      const { body } = await api.request('POST', `/v1/volumes/${volume}/attachments`, { body: {} });
      const answer = await api.request('DELETE', `/v1/volumes/${volume}/attachments/${body.attachment.id}`);
      expect(answer.status).toBe(409);
      expect(answer.body).toMatchObject({
        code: 'attachment-wrong-state',
        currentState: 'attaching',
        allowedStates: ['attached'],
        retryable: true,
      });
    });

    it('detaching an attachment that failed succeeds, and the volume can be attached again with a newer generation', async () => {
      const volume = await api.availableVolume();
      const { body } = await api.request('POST', `/v1/volumes/${volume}/attachments`, { body: {} });
      await api.failAttach(body.operation.id);
      const operation = await api.request('GET', `/v1/operations/${body.operation.id}`);
      expect(operation.body).toMatchObject({
        state: 'failed',
        error: { code: 'no-capacity', message: 'No room.', retryable: true },
      });
      const answer = await api.request('DELETE', `/v1/volumes/${volume}/attachments/${body.attachment.id}`);
      expect(answer.status).toBe(200);
      expect(answer.body).toMatchObject({ attachment: { state: 'error', reason: { code: 'no-capacity' } } });
      const again = await api.request('POST', `/v1/volumes/${volume}/attachments`, { body: {} });
      expect(again.body.attachment.generation).toBe(2);
    });
  });

  it('turns a detach on its way into a forced one', async () => {
    const volume = await api.availableVolume();
    const path = `/v1/volumes/${volume}/attachments/${await api.attached(volume)}`;
    const gentle = await api.request('DELETE', path);
    const forced = await api.request('DELETE', `${path}?force=true`);
    expect(forced.body.operation.id).toBe(gentle.body.operation.id);
    const [row] = await sql(api.databaseUrl, 'SELECT params FROM operations WHERE id = $1', [
      gentle.body.operation.id,
    ]);
    expect(row).toEqual({ params: { generation: 1, force: true } });
  });

  describe('client tokens', () => {
    it('give the same operation for the same request, by header or by body', async () => {
      const first = await create({ clientToken: 'same' });
      const second = await create({}, { 'idempotency-key': 'same' });
      const third = await create({ clientToken: 'same' }, { 'idempotency-key': 'same' });
      for (const answer of [second, third]) {
        expect(answer.status).toBe(202);
        expect(answer.body).toEqual(first.body);
      }
    });

    it('still give it when the operation has ended and the volume is gone', async () => {
      const first = await create({ clientToken: 'ended' });
      await api.finish(first.body.operation.id);
      const deletion = await api.request('DELETE', `/v1/volumes/${first.body.volume.id}`, {
        headers: { 'idempotency-key': 'ended-2' },
      });
      await api.finish(deletion.body.operation.id);
      await sql(api.databaseUrl, 'DELETE FROM volumes WHERE id = $1', [first.body.volume.id]);
      const replay = await create({ clientToken: 'ended' });
      expect(replay.body).toMatchObject({ operation: { id: first.body.operation.id, state: 'succeeded' } });
      expect(replay.body.volume).toBeUndefined();
      const replayed = await api.request('DELETE', `/v1/volumes/${first.body.volume.id}?clientToken=ended-2`);
      expect([replayed.status, replayed.body.operation.id]).toEqual([202, deletion.body.operation.id]);
    });

    it('are refused for another request of the same or another kind', async () => {
      const volume = await api.availableVolume();
      await create({ clientToken: 'mine' });
      const headers = { 'idempotency-key': 'mine' };
      for (const answer of [
        await create({ sizeBytes: 2 * GIB }, headers),
        await create({ name: 'other' }, headers),
        await api.request('DELETE', `/v1/volumes/${volume}`, { headers }),
        await api.request('POST', `/v1/volumes/${volume}/attachments`, { headers, body: {} }),
      ]) {
        expect(answer.status).toBe(409);
        expect(answer.body).toMatchObject({ code: 'idempotent-parameter-mismatch', retryable: false });
      }
      expect((await api.request('GET', `/v1/volumes/${volume}`)).body.state).toBe('available');
    });

    it('belong to their project', async () => {
      const first = await create({ clientToken: 'shared' });
      const other = await api.request('POST', '/v1/volumes', {
        key: api.otherKey,
        body: { sizeBytes: GIB, clientToken: 'shared' },
      });
      expect(other.status).toBe(202);
      expect(other.body.volume.id).not.toBe(first.body.volume.id);
    });

    it('that differ between header and body are 400', async () => {
      const answer = await create({ clientToken: 'one' }, { 'idempotency-key': 'two' });
      expect([answer.status, answer.body.code]).toEqual([400, 'client-token-conflict']);
      const malformed = await create({}, { 'idempotency-key': 'a b' });
      expect(malformed.body).toMatchObject({
        code: 'invalid-request',
        errors: [{ field: 'Idempotency-Key' }],
      });
    });

    it('make racing twins one volume, one attachment, one detach and one deletion', async () => {
      const race = async (send: () => ReturnType<typeof create>) => {
        const answers = await Promise.all(Array.from({ length: 12 }, send));
        expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202));
        expect(new Set(answers.map(({ body }) => body.operation.id)).size).toBe(1);
        return answers[0]!.body;
      };
      const headers = (token: string) => ({ 'idempotency-key': `race-${token}` });
      const created = await race(() => create({}, headers('create')));
      await api.finish(created.operation.id);
      const volume = `/v1/volumes/${created.volume.id}`;
      const attached = await race(() =>
        api.request('POST', `${volume}/attachments`, { body: {}, headers: headers('attach') }),
      );
      await api.finish(attached.operation.id);
      const attachment = `${volume}/attachments/${attached.attachment.id}`;
      const detached = await race(() => api.request('DELETE', attachment, { headers: headers('detach') }));
      await api.finish(detached.operation.id);
      await race(() => api.request('DELETE', volume, { headers: headers('delete') }));
    });

    it('absent, a repeated request does the work again', async () => {
      expect((await create()).body.volume.id).not.toBe((await create()).body.volume.id);
    });
  });

  it('lets one of many racing attaches of different callers through', async () => {
    const volume = await api.availableVolume();
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => api.request('POST', `/v1/volumes/${volume}/attachments`, { body: {} })),
    );
    expect(answers.filter(({ status }) => status === 202)).toHaveLength(1);
    expect(new Set(answers.filter(({ status }) => status !== 202).map(({ body }) => body.code))).toEqual(
      new Set(['volume-in-use']),
    );
  });

  it('nudges a worker', async () => {
    const seen: string[] = [];
    const consumer = api.consume(seen);
    const { body } = await create();
    await eventually(() => seen.includes(body.operation.id));
    await consumer.close();
  });

  it('that crashes between commit and nudge loses nothing: the sweep finds it, and the repeated request joins it', async () => {
    crash = true;
    const crashed = await create({ clientToken: 'crash' }).finally(() => (crash = false));
    expect(crashed.status).toBe(500);
    expect(crashed.body).toMatchObject({ code: 'internal', retryable: false });
    expect(JSON.stringify(crashed.body)).not.toContain('crashed');
    const due = () => api.database.unitOfWork.read(({ operations }) => operations.findDue(1000));
    const found = async () => (await due()).find(({ clientToken }) => clientToken === 'crash');
    let operation = await found();
    await eventually(async () => (operation ??= await found()) !== undefined);
    const repeated = await create({ clientToken: 'crash' });
    expect(repeated.body).toMatchObject({ operation: { id: operation!.id }, volume: { state: 'creating' } });
    await api.finish(operation!.id);
  });

  it('never logs a key, and names the request in every line', async () => {
    const lines: string[] = [];
    const write = (chunk: unknown) => lines.push(String(chunk)) > 0;
    const spies = [process.stdout, process.stderr].map((stream) =>
      vi.spyOn(stream, 'write').mockImplementation(write),
    );
    await create({}, { 'x-request-id': 'logged-1' });
    await api.request('GET', '/v1/volumes', { key: `${api.key}x`, headers: { 'x-request-id': 'logged-2' } });
    await eventually(() => lines.some((line) => line.includes('logged-2')));
    for (const spy of spies) spy.mockRestore();
    expect(lines.join('')).not.toContain('cairn_');
    expect(lines.filter((line) => !/logged-[12]/.test(line))).toEqual([]);
    expect(lines.some((line) => line.includes('logged-1') && line.includes('POST /v1/volumes 202'))).toBe(
      true,
    );
  });

  if (kind === 'redis') {
    it('goes on without its queue, says so, and takes it up again', async () => {
      expect((await api.request('GET', '/health/ready', { key: null })).body).toEqual({
        status: 'ready',
        dependencies: { database: 'up', queue: 'up' },
      });
      await api.redis!.shutDown();
      const begin = Date.now();
      expect((await create()).status).toBe(202);
      expect(Date.now() - begin).toBeLessThan(2_500);
      const ready = await api.request('GET', '/health/ready', { key: null });
      expect([ready.status, ready.body]).toEqual([
        200,
        { status: 'degraded', dependencies: { database: 'up', queue: 'down' } },
      ]);
      await api.redis!.bringUp();
      await eventually(async () => (await api.request('GET', '/health/ready')).body.status === 'ready');
    });
  }

  it('answers 503 while the database is down, lives, and serves again when it is back', async () => {
    await api.postgres.shutDown();
    for (const [method, path, body] of [
      ['GET', '/v1/volumes'],
      ['POST', '/v1/volumes', { sizeBytes: GIB }],
      ['GET', '/v1/nodes'],
    ] as const) {
      const answer = await api.request(method, path, { body });
      expect(answer.status).toBe(503);
      expect(answer.body).toMatchObject({ code: 'dependency-unavailable', retryable: true });
      expect(answer.headers.get('retry-after')).toBe('1');
    }
    const ready = await api.request('GET', '/health/ready', { key: null });
    expect([ready.status, ready.body.status, ready.body.dependencies.database]).toEqual([
      503,
      'unavailable',
      'down',
    ]);
    expect((await api.request('GET', '/health/live', { key: null })).body).toEqual({ status: 'live' });
    await api.postgres.bringUp();
    expect((await create()).status).toBe(202);
    await eventually(async () => (await api.request('GET', '/health/ready')).body.status === 'ready');
  });
});
