import { newId } from '@cairn/domain';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newApiKey } from '../../apps/control-plane/src/http/api-key.js';
import { ControlPlaneFixture, type Answer, type RequestOptions } from './control-plane.fixture.js';

let api: ControlPlaneFixture;
beforeAll(async () => {
  api = await ControlPlaneFixture.start('postgres');
});
afterAll(() => api?.stop());

const unknownVolume = newId('vol');
const unknownAttachment = newId('att');
const GIB = 2 ** 30;

/** Every route that needs an API key. */
const routes: [string, string, unknown?][] = [
  ['POST', '/v1/volumes', { sizeBytes: GIB }],
  ['GET', '/v1/volumes'],
  ['GET', `/v1/volumes/${unknownVolume}`],
  ['DELETE', `/v1/volumes/${unknownVolume}`],
  ['POST', `/v1/volumes/${unknownVolume}/attachments`, {}],
  ['GET', `/v1/volumes/${unknownVolume}/attachments`],
  ['GET', `/v1/volumes/${unknownVolume}/attachments/${unknownAttachment}`],
  ['DELETE', `/v1/volumes/${unknownVolume}/attachments/${unknownAttachment}`],
  ['POST', `/v1/volumes/${unknownVolume}/snapshots`, {}],
  ['POST', `/v1/volumes/${unknownVolume}/resize`, { sizeBytes: GIB }],
  ['POST', `/v1/volumes/${unknownVolume}/revert`, { snapshotId: newId('snap') }],
  ['POST', '/v1/snapshots/group', { volumeIds: [unknownVolume] }],
  ['GET', '/v1/snapshots'],
  ['POST', '/v1/snapshots', { sizeBytes: 4096 }],
  ['GET', `/v1/snapshots/${newId('snap')}/upload`],
  ['POST', `/v1/snapshots/${newId('snap')}/complete`, { changedBlocks: 0 }],
  ['GET', `/v1/snapshots/${newId('snap')}`],
  ['GET', `/v1/snapshots/${newId('snap')}/blocks`],
  ['GET', `/v1/snapshots/${newId('snap')}/blocks/0?token=x`],
  ['GET', `/v1/snapshots/${newId('snap')}/extents`],
  ['DELETE', `/v1/snapshots/${newId('snap')}`],
  ['GET', `/v1/operations/${newId('op')}`],
  ['GET', '/v1/nodes'],
];

function expectProblem(answer: Answer, status: number, code: string): void {
  expect(answer.body).toMatchObject({ status, code, type: `urn:cairn:problem:${code}` });
  expect(answer.status).toBe(status);
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(answer.body.requestId).toBe(answer.headers.get('x-request-id'));
  for (const field of ['title', 'detail']) expect(answer.body[field]).toMatch(/./);
  expect(typeof answer.body.retryable).toBe('boolean');
}

describe('credentials', () => {
  it.each(routes)('%s %s without a key is 401', async (method, path, body) => {
    const answer = await api.request(method, path, { body, key: null });
    expectProblem(answer, 401, 'not-authenticated');
    expect(answer.headers.get('www-authenticate')).toMatch(/^Bearer/);
  });

  it.each(routes)('%s %s with a key that was never made is 401', async (method, path, body) => {
    expectProblem(await api.request(method, path, { body, key: newApiKey() }), 401, 'not-authenticated');
  });

  it('refuses a known key id with another secret, the wrong scheme and nonsense', async () => {
    const flipped = api.key.slice(0, -1) + (api.key.endsWith('A') ? 'E' : 'A');
    for (const key of [flipped, 'x', '', `${api.key}x`]) {
      expectProblem(await api.request('GET', '/v1/volumes', { key }), 401, 'not-authenticated');
    }
    const headers = { authorization: `Basic ${api.key}` };
    expectProblem(await api.request('GET', '/v1/volumes', { headers, key: null }), 401, 'not-authenticated');
  });

  it('refuses a revoked key', async () => {
    const { sql } = await import('../support/databases.js');
    const { createKey } = await import('../../apps/control-plane/src/bootstrap.js');
    const key = await createKey(api.database.unitOfWork, 'brief');
    expect((await api.request('GET', '/v1/volumes', { key })).status).toBe(200);
    await sql(
      api.databaseUrl,
      `UPDATE api_keys SET revoked_at = now() WHERE id = 'key-${key.split('_')[1]}'`,
    );
    expectProblem(await api.request('GET', '/v1/volumes', { key }), 401, 'not-authenticated');
  });

  it('keeps only a hash of the secret', async () => {
    const { sql } = await import('../support/databases.js');
    const rows = await sql(
      api.databaseUrl,
      `SELECT t::text, encode(secret_sha256, 'escape') AS raw FROM api_keys t`,
    );
    expect(JSON.stringify(rows)).not.toContain(api.key.split('_').slice(2).join('_'));
  });
});

describe('ids', () => {
  const withIds: [string, string, string][] = [
    ['GET', '/v1/volumes/ID', 'volume-not-found'],
    ['DELETE', '/v1/volumes/ID', 'volume-not-found'],
    ['POST', '/v1/volumes/ID/attachments', 'volume-not-found'],
    ['GET', '/v1/volumes/ID/attachments', 'volume-not-found'],
    ['GET', `/v1/volumes/ID/attachments/${unknownAttachment}`, 'volume-not-found'],
    ['DELETE', `/v1/volumes/ID/attachments/${unknownAttachment}`, 'volume-not-found'],
  ];
  const bad = [
    unknownVolume,
    'vol-1',
    'VOL-0123456789ABCDEF',
    newId('att'),
    '..%2f..',
    '%00',
    "'%20or%201=1",
    'ü',
  ];

  it.each(withIds)('%s %s with an unknown or impossible id is 404', async (method, path, code) => {
    for (const id of bad) {
      const body = method === 'POST' ? {} : undefined;
      expectProblem(await api.request(method, path.replace('ID', id), { body }), 404, code);
    }
  });

  it('an unknown attachment of a known volume is 404', async () => {
    const volume = await api.availableVolume();
    for (const id of [unknownAttachment, 'x']) {
      for (const method of ['GET', 'DELETE']) {
        const answer = await api.request(method, `/v1/volumes/${volume}/attachments/${id}`);
        expectProblem(answer, 404, 'attachment-not-found');
      }
    }
  });

  it("an attachment is not found under another volume's path", async () => {
    const [one, two] = [await api.availableVolume(), await api.availableVolume()];
    const attachment = await api.attached(one);
    expectProblem(
      await api.request('GET', `/v1/volumes/${two}/attachments/${attachment}`),
      404,
      'attachment-not-found',
    );
    expectProblem(
      await api.request('DELETE', `/v1/volumes/${two}/attachments/${attachment}`),
      404,
      'attachment-not-found',
    );
  });

  it('unknown operations are 404', async () => {
    for (const id of [newId('op'), 'x']) {
      expectProblem(await api.request('GET', `/v1/operations/${id}`), 404, 'operation-not-found');
    }
  });

  it("another project's volume, attachment and operation are 404, and stay untouched", async () => {
    const created = await api.request('POST', '/v1/volumes', { body: { sizeBytes: GIB } });
    await api.finish(created.body.operation.id);
    const volume = created.body.volume.id;
    const attachment = await api.attached(volume);
    const as = { key: api.otherKey };
    expectProblem(await api.request('GET', `/v1/volumes/${volume}`, as), 404, 'volume-not-found');
    expectProblem(await api.request('DELETE', `/v1/volumes/${volume}`, as), 404, 'volume-not-found');
    expectProblem(
      await api.request('POST', `/v1/volumes/${volume}/attachments`, { ...as, body: {} }),
      404,
      'volume-not-found',
    );
    expectProblem(await api.request('GET', `/v1/volumes/${volume}/attachments`, as), 404, 'volume-not-found');
    for (const method of ['GET', 'DELETE']) {
      const answer = await api.request(method, `/v1/volumes/${volume}/attachments/${attachment}`, as);
      expectProblem(answer, 404, 'volume-not-found');
    }
    expectProblem(
      await api.request('GET', `/v1/operations/${created.body.operation.id}`, as),
      404,
      'operation-not-found',
    );
    expect((await api.request('GET', '/v1/volumes', as)).body).toEqual({ volumes: [] });
    expect((await api.request('GET', `/v1/volumes/${volume}`)).body.state).toBe('in-use');
  });
});

describe('bodies', () => {
  const create = (options: RequestOptions) => api.request('POST', '/v1/volumes', options);

  it.each([
    0,
    -1,
    -4096,
    2 ** 60,
    2 ** 53,
    1.5,
    4096,
    2 ** 20 + 1,
    '1073741824',
    '10G',
    true,
    null,
    [],
    {},
    undefined,
  ])('a size of %s is 400 and names the field', async (sizeBytes) => {
    const answer = await create({ body: { sizeBytes } });
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body.errors).toEqual([{ field: 'sizeBytes', message: expect.stringMatching(/./) }]);
    expect(answer.body.retryable).toBe(false);
  });

  it('takes the smallest and the largest size', async () => {
    for (const sizeBytes of [2 ** 20, 64 * 2 ** 40])
      expect((await create({ body: { sizeBytes } })).status).toBe(202);
  });

  it('lists every fault at once', async () => {
    const answer = await create({
      body: { sizeBytes: 0, name: '', clientToken: 'a b', color: 'red', size: 5 },
    });
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body.errors.map(({ field }: { field: string }) => field).toSorted()).toEqual([
      'clientToken',
      'color',
      'name',
      'size',
      'sizeBytes',
    ]);
  });

  it.each([
    ['name', ''],
    ['name', 'x'.repeat(256)],
    ['name', 5],
    ['name', null],
    ['name', 'a\u0000b'],
    ['name', 'a\nb'],
    ['name', 'a\ud800b'],
    ['clientToken', ''],
    ['clientToken', 'x'.repeat(65)],
    ['clientToken', 'ü'],
    ['clientToken', 7],
    ['clientToken', null],
    ['state', 'available'],
    ['projectId', 'proj-0123456789abcdef'],
    ['__proto__', { a: 1 }],
    ['constructor', 1],
  ])('a create with %s = %j is 400', async (field, value) => {
    const answer = await create({
      rawBody: `{"sizeBytes":${GIB},${JSON.stringify(field)}:${JSON.stringify(value)}}`,
    });
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body.errors).toEqual([{ field, message: expect.stringMatching(/./) }]);
  });

  it.each([
    ['instanceId', ''],
    ['instanceId', 5],
    ['readOnly', 'true'],
    ['readOnly', 1],
    ['numQueues', 0],
    ['numQueues', 17],
    ['numQueues', '2'],
    ['numQueues', 1.5],
    ['device', '/dev/vdb'],
  ])('an attach with %s = %j is 400', async (field, value) => {
    const answer = await api.request('POST', `/v1/volumes/${unknownVolume}/attachments`, {
      body: { [field]: value },
    });
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body.errors).toEqual([{ field, message: expect.stringMatching(/./) }]);
  });

  it.each(['{', '{"sizeBytes":}', 'null', '"x"', 'NaN', '{"sizeBytes":1}}', '\u0000'])(
    'the body %j is 400',
    async (rawBody) => {
      expectProblem(await create({ rawBody }), 400, 'malformed-request');
    },
  );

  it.each(['[]', '[{"sizeBytes":1073741824}]'])('the body %s is 400', async (rawBody) => {
    expectProblem(await create({ rawBody }), 400, 'invalid-request');
  });

  it('no body at all is 400, with the missing field', async () => {
    const answer = await create({});
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body.errors).toMatchObject([{ field: 'sizeBytes' }]);
  });

  it('a body that is not declared JSON is 415', async () => {
    for (const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'application/json; charset=latin1',
      'application/merge-patch+json',
    ]) {
      const answer = await create({ rawBody: '{"sizeBytes":1073741824}', headers: { 'content-type': type } });
      expectProblem(answer, 415, 'unsupported-media-type');
    }
  });

  it('an attach whose body is of another JSON type is 415, and never an attach that is not read-only', async () => {
    const answer = await api.request('POST', `/v1/volumes/${await api.availableVolume()}/attachments`, {
      rawBody: '{"readOnly":true}',
      headers: { 'content-type': 'application/vnd.api+json' },
    });
    expectProblem(answer, 415, 'unsupported-media-type');
  });

  it('a body past the limit is 413', async () => {
    expectProblem(
      await create({ body: { sizeBytes: GIB, name: 'x'.repeat(300_000) } }),
      413,
      'body-too-large',
    );
  });

  it('a deeply nested body is 400', async () => {
    const rawBody = `{"sizeBytes":${'['.repeat(50_000)}${']'.repeat(50_000)}}`;
    expectProblem(await create({ rawBody }), 400, 'invalid-request');
  });

  it('a broken gzip body is 400', async () => {
    const headers = { 'content-encoding': 'gzip' };
    expectProblem(await create({ rawBody: 'not gzip', headers }), 400, 'malformed-request');
  });
});

describe('queries', () => {
  it.each([
    'limit=0',
    'limit=-1',
    'limit=1001',
    'limit=x',
    'limit=1.5',
    'limit=',
    'limit=1&limit=2',
    'pageToken=nonsense',
    'pageToken=',
    'state=gone',
    'state=',
    'state=available,gone',
    'color=red',
    '__proto__=1',
    'constructor=1',
    'hasOwnProperty=1',
    'pageToken=djEuOTk5OTk5OTk5OTk5OTk5OTk5OTk',
  ])('a list with %s is 400', async (query) => {
    const answer = await api.request('GET', `/v1/volumes?${query}`);
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body.errors).toHaveLength(1);
  });

  it.each(['force=1', 'force=', 'force=TRUE', 'force=true&force=false', 'clientToken=a%20b', 'x=1'])(
    'a detach with %s is 400',
    async (query) => {
      const answer = await api.request(
        'DELETE',
        `/v1/volumes/${unknownVolume}/attachments/${unknownAttachment}?${query}`,
      );
      expectProblem(answer, 400, 'invalid-request');
    },
  );

  it('a delete with an unknown parameter is 400', async () => {
    expectProblem(
      await api.request('DELETE', `/v1/volumes/${unknownVolume}?force=true`),
      400,
      'invalid-request',
    );
  });
});

describe('routes', () => {
  it.each([
    ['GET', '/'],
    ['GET', '/v1'],
    ['GET', '/v2/volumes'],
    ['PATCH', '/v1/volumes'],
    ['POST', '/v1/nodes'],
  ])('%s %s is 404', async (method, path) =>
    expectProblem(await api.request(method, path), 404, 'route-not-found'),
  );

  it('a path that is not valid percent-encoding is 400', async () => {
    expectProblem(await api.request('GET', '/v1/volumes/%zz'), 400, 'malformed-request');
  });

  it("echoes the caller's request id when it is sane, and makes one otherwise", async () => {
    const echoed = await api.request('GET', '/v1/volumes/x', {
      headers: { 'x-request-id': 'my-Request_1.2' },
    });
    expect(echoed.body.requestId).toBe('my-Request_1.2');
    const replaced = await api.request('GET', '/v1/volumes/x', {
      headers: { 'x-request-id': 'a b<script>' },
    });
    expectProblem(replaced, 404, 'volume-not-found');
    expect(replaced.body.requestId).toMatch(/^req-[0-9a-f]{17}$/);
  });
});

describe('heartbeats', () => {
  const id = newId('node');
  const pool = {
    id: newId('pool'),
    directory: '/p',
    totalBytes: 10,
    freeBytes: 5,
    provisionedBytes: 7,
    volumes: 1,
  };
  const beat = {
    name: 'n',
    agentUrl: 'http://127.0.0.1:1',
    version: '1',
    exports: 2,
    connectedExports: 1,
    pools: [pool],
  };
  const put = (body: unknown, options: RequestOptions = {}) =>
    api.request('PUT', `/v1/nodes/${id}/heartbeat`, { body, key: api.joinToken, ...options });

  it('make the node seen by every project', async () => {
    expect((await put(beat)).status).toBe(204);
    for (const key of [api.key, api.otherKey]) {
      const { body } = await api.request('GET', '/v1/nodes', { key });
      expect(body.nodes).toMatchObject([
        { id, name: 'n', state: 'ready', agentUrl: beat.agentUrl, exports: 2, pools: [pool] },
      ]);
    }
  });

  it('say when a pool is low on space, and since when is shown; a node of an earlier release does not say it', async () => {
    const shown = async () => (await api.request('GET', '/v1/nodes')).body.nodes[0].pools[0];
    await put({ ...beat, pools: [{ ...pool, lowSpace: true }] });
    const first = await shown();
    expect(first).toMatchObject({ lowSpace: true, lowSpaceSince: expect.stringMatching(/Z$/) });
    await put({ ...beat, pools: [{ ...pool, lowSpace: true, freeBytes: 4 }] });
    expect(await shown()).toEqual({ ...first, freeBytes: 4 });
    await put(beat);
    expect(await shown()).toEqual({ ...pool, lowSpace: false });
  });

  it('are taken from a newer node that says more', async () => {
    expect((await put({ ...beat, load: 0.5, pools: [{ ...pool, kind: 'tmpfs' }] })).status).toBe(204);
  });

  it('need the join token, not an API key', async () => {
    for (const key of [null, api.key, 'join', 'join-token2']) {
      expectProblem(await put(beat, { key }), 401, 'not-authenticated');
    }
  });

  it('with a wrong node id are 404', async () => {
    const options = { body: beat, key: api.joinToken };
    expectProblem(await api.request('PUT', '/v1/nodes/host-1/heartbeat', options), 404, 'node-not-found');
  });

  it.each([
    ['name', { name: '' }],
    ['agentUrl', { agentUrl: 'ftp://x' }],
    ['exports', { exports: -1 }],
    ['exports', { exports: 2 ** 40 }],
    ['pools', { pools: {} }],
    ['pools', { pools: undefined }],
    ['pools[0].id', { pools: [{ ...pool, id: 'p' }] }],
    ['pools[1].freeBytes', { pools: [pool, { ...pool, freeBytes: '5' }] }],
    ['pools[0].lowSpace', { pools: [{ ...pool, lowSpace: 'yes' }] }],
    ['pools[0].directory', { pools: [{ ...pool, directory: undefined }] }],
  ])('with a bad %s are 400', async (field, change) => {
    const answer = await put({ ...beat, ...change });
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.body.errors.map((error: { field: string }) => error.field)).toContain(field);
  });

  it.each([[[5]], [[null]], [['x']]])('with pools %j are 400', async (pools) => {
    expectProblem(await put({ ...beat, pools }), 400, 'invalid-request');
  });
});

describe('OpenAPI', () => {
  it('lists every route, and every answer an error can be', async () => {
    const { status, body } = await api.request('GET', '/v1/openapi.json', { key: null });
    expect(status).toBe(200);
    const operations = Object.entries<Record<string, any>>(body.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({
        name: `${method.toUpperCase()} ${path}`,
        operation,
      })),
    );
    expect(operations.map(({ name }) => name).toSorted()).toEqual([
      'DELETE /v1/snapshots/{snapshotId}',
      'DELETE /v1/volumes/{volumeId}',
      'DELETE /v1/volumes/{volumeId}/attachments/{attachmentId}',
      'GET /health/live',
      'GET /health/ready',
      'GET /v1/nodes',
      'GET /v1/operations/{operationId}',
      'GET /v1/snapshots',
      'GET /v1/snapshots/{snapshotId}',
      'GET /v1/snapshots/{snapshotId}/blocks',
      'GET /v1/snapshots/{snapshotId}/blocks/{index}',
      'GET /v1/snapshots/{snapshotId}/extents',
      'GET /v1/snapshots/{snapshotId}/upload',
      'GET /v1/volumes',
      'GET /v1/volumes/{volumeId}',
      'GET /v1/volumes/{volumeId}/attachments',
      'GET /v1/volumes/{volumeId}/attachments/{attachmentId}',
      'POST /v1/snapshots',
      'POST /v1/snapshots/group',
      'POST /v1/snapshots/{snapshotId}/complete',
      'POST /v1/volumes',
      'POST /v1/volumes/{volumeId}/attachments',
      'POST /v1/volumes/{volumeId}/resize',
      'POST /v1/volumes/{volumeId}/revert',
      'POST /v1/volumes/{volumeId}/snapshots',
      'PUT /v1/nodes/{nodeId}/heartbeat',
    ]);
    for (const { name, operation } of operations) {
      expect(operation.summary, name).toMatch(/./);
      if (name.includes('/health/')) continue;
      const statuses = Object.keys(operation.responses);
      expect(statuses, name).toEqual(expect.arrayContaining(['401', '500', '503']));
      if (name.includes('{')) expect(statuses, name).toContain('404');
      if (/^(POST|DELETE)/.test(name))
        expect(statuses, name).toEqual(expect.arrayContaining(['202', '400', '409']));
      for (const code of statuses.filter((each) => Number(each) >= 400)) {
        expect(Object.keys(operation.responses[code].content), `${name} ${code}`).toEqual([
          'application/problem+json',
        ]);
      }
      expect(operation.security, name).toHaveLength(1);
    }
    // Every reference leads somewhere.
    const text = JSON.stringify(body);
    for (const [, schema] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      expect(body.components.schemas).toHaveProperty(schema!);
    }
  });

  it('has a page to read it that loads nothing from elsewhere', async () => {
    const page = await api.request('GET', '/docs', { key: null });
    expect(page.status).toBe(200);
    expect(page.body).toContain('Cairn API');
    const sources = [...String(page.body).matchAll(/(?:src|href)="([^"]+)"/g)].map(([, source]) => source!);
    expect(sources.length).toBeGreaterThan(2);
    for (const source of sources) {
      expect(source).not.toMatch(/^(https?:)?\/\//);
      expect((await fetch(new URL(source, `${api.url}/docs`))).status, source).toBe(200);
    }
  });
});
