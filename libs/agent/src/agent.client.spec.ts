import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { AgentClient } from './agent.client.js';
import { AgentError } from './agent.errors.js';

const servers: Server[] = [];

/** A node that answers every call with one status and body, and keeps what it was asked. */
async function answering(status: number, body: string) {
  const asked: { method?: string; url?: string; authorization?: string; body: string }[] = [];
  const server = createServer((request, response) => {
    let received = '';
    request.on('data', (chunk: Buffer) => (received += chunk.toString()));
    request.on('end', () => {
      const { method, url, headers } = request;
      asked.push({ method, url, authorization: headers.authorization, body: received });
      response.writeHead(status, { 'content-type': 'application/json' }).end(body);
    });
  });
  servers.push(server);
  return { asked, client: await clientOf(server) };
}

async function clientOf(server: Server, timeoutMs = 2000): Promise<AgentClient> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return new AgentClient({ baseUrl: `http://127.0.0.1:${port}`, token: 'secret', timeoutMs });
}

const codeOf = async (call: Promise<unknown>): Promise<string> => {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof AgentError)) throw new Error(`expected an AgentError, got ${String(error)}`);
  return `${error.code}${error.retryable ? ' (retryable)' : ''}`;
};

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

const id = 'vol-0123456789abcdef' as const;

describe('the agent client', () => {
  it('sends the verb with its token and body and reads the answer', async () => {
    const volume = { id, sizeBytes: 1048576, allocatedBytes: 0, createdAt: '2026-01-02T03:04:05.678Z' };
    const { client, asked } = await answering(200, JSON.stringify({ ...volume, addedLater: true }));
    expect(await client.putVolume(id, { sizeBytes: 1048576 })).toEqual(volume);
    expect(asked).toEqual([
      {
        method: 'PUT',
        url: `/v1/volumes/${id}`,
        authorization: 'Bearer secret',
        body: '{"sizeBytes":1048576}',
      },
    ]);
  });

  it('carries generation and force of a detach in the query', async () => {
    const { client, asked } = await answering(200, '{}');
    await client.deleteExport(id, { generation: 7, force: true });
    expect(asked[0]?.url).toBe(`/v1/volumes/${id}/export?generation=7&force=true`);
  });

  it('takes the code of a refusal from the body, not from the status', async () => {
    const { client } = await answering(409, '{"code":"export-busy","message":"a front-end is connected"}');
    expect(await codeOf(client.deleteExport(id, { generation: 1, force: false }))).toBe(
      'export-busy (retryable)',
    );
  });

  it('reads a volume that is not there as undefined and any other refusal as an error', async () => {
    const absent = await answering(404, '{"code":"volume-not-found","message":"no such volume"}');
    expect(await absent.client.findVolume(id)).toBeUndefined();
    const stranger = await answering(404, '<html>not here</html>');
    expect(await codeOf(stranger.client.findVolume(id))).toBe('bad-response (retryable)');
  });

  it.each(['', 'null', '[]', '{"id":"vol-0123456789abcdef"}', '{"id":'])(
    'answers bad-response for the body %j',
    async (body) => {
      const { client } = await answering(200, body);
      expect(await codeOf(client.putVolume(id, { sizeBytes: 1048576 }))).toBe('bad-response (retryable)');
    },
  );

  it('tells a node that is not there from one that does not answer', async () => {
    const { client } = await answering(200, '{}');
    servers.splice(0).forEach((server) => server.close());
    expect(await codeOf(client.getNode())).toBe('unreachable (retryable)');
    const silent = createServer(() => undefined);
    servers.push(silent);
    expect(await codeOf((await clientOf(silent, 100)).getNode())).toBe('timeout (retryable)');
  });
});
