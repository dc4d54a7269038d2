import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { CliError } from '../cli-error.js';
import { ApiClient, type ApiOperation } from './api-client.js';
import { apiOf } from './api-options.js';

const pending: ApiOperation = { id: 'op-1', kind: 'create-volume', state: 'pending', progress: 0 };

describe('ApiClient', () => {
  let server: Server | undefined;
  afterEach(() => server?.close());

  /** A client of an API that gives these answers in turn, and what it was asked. */
  async function api(...answers: [status: number, body: unknown][]) {
    const asked: { request: IncomingMessage; body: string }[] = [];
    server = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => {
        asked.push({ request, body });
        const [status, answer] = answers.length > 1 ? answers.shift()! : answers[0]!;
        response.writeHead(status).end(typeof answer === 'string' ? answer : JSON.stringify(answer));
      });
    });
    await new Promise<void>((resolve) => {
      server?.listen(0, '127.0.0.1', resolve);
    });
    const { port } = server.address() as AddressInfo;
    return { client: new ApiClient(`http://127.0.0.1:${port}`, 'the-key'), asked };
  }

  it('sends the key and JSON', async () => {
    const { client, asked } = await api([202, { volume: { id: 'vol-1' }, operation: pending }]);
    await client.createVolume({ sizeBytes: 1048576 });
    expect(asked[0]?.request).toMatchObject({ method: 'POST', url: '/v1/volumes' });
    expect(asked[0]?.request.headers.authorization).toBe('Bearer the-key');
    expect(JSON.parse(asked[0]?.body ?? '')).toEqual({ sizeBytes: 1048576 });
  });

  it('waits for an operation through its states', async () => {
    const { client, asked } = await api(
      [200, pending],
      [200, { ...pending, state: 'running' }],
      [200, { ...pending, state: 'succeeded' }],
    );
    await client.finish(pending);
    expect(asked).toHaveLength(3);
  });

  it('throws the reason of an operation that failed', async () => {
    const error = { code: 'pool-full', message: 'The pool is full.', retryable: true };
    const { client } = await api([200, { ...pending, state: 'failed', error }]);
    await expect(client.finish(pending)).rejects.toThrow(/The pool is full. \(pool-full, operation op-1\)/);
  });

  it('gives up on an operation that takes too long, and says where to look', async () => {
    const { client } = await api([200, pending]);
    const error = await client.finish(pending, { timeoutMs: 30 }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(CliError);
    expect(error).toMatchObject({ remedy: expect.stringContaining('/v1/operations/op-1') });
  });

  it('tells the states and every fault of a problem', async () => {
    const { client } = await api([
      409,
      {
        detail: 'Not now.',
        code: 'wrong-state',
        currentState: 'in-use',
        allowedStates: ['available'],
        errors: [{ field: 'sizeBytes', message: 'is odd' }],
      },
    ]);
    await expect(client.deleteVolume('vol-1')).rejects.toMatchObject({
      status: 409,
      code: 'wrong-state',
      message: 'Not now. (it is in-use; allowed: available)\n  sizeBytes: is odd',
    });
  });

  it('names the key when it is refused, and survives an answer that is not a problem', async () => {
    const { client } = await api([401, { detail: 'No.' }], [502, '<html>']);
    await expect(client.getVolume('vol-1')).rejects.toMatchObject({
      remedy: expect.stringContaining('--api-key'),
    });
    await expect(client.getVolume('vol-1')).rejects.toMatchObject({ status: 502, code: 'http-502' });
  });

  it('says that nobody answers, and how to start somebody', async () => {
    const { client } = await api([200, {}]);
    server?.close();
    await expect(client.getVolume('vol-1')).rejects.toMatchObject({
      remedy: expect.stringContaining('npm start'),
    });
  });
});

describe('apiOf', () => {
  const env = { CAIRN_DATA_DIR: '/nowhere/cairn' };

  it('takes the options before the environment', () => {
    const settings = { ...env, CAIRN_API_URL: 'http://env', CAIRN_API_KEY: 'k' };
    expect(apiOf({}, settings).url).toBe('http://env');
    expect(apiOf({ apiUrl: 'http://option/' }, settings).url).toBe('http://option');
  });

  it('says which of address and key is missing', () => {
    expect(() => apiOf({}, env)).toThrow(/no API address/);
    expect(() => apiOf({ apiUrl: 'http://x' }, env)).toThrow(/no API key/);
    expect(() => apiOf({ apiUrl: 'x', apiKey: 'k' }, env)).toThrow(/not a URL/);
  });
});
