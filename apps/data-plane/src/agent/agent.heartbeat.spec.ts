import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import type { AgentNode } from '@cairn/agent';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { AgentHeartbeat } from './agent.heartbeat.js';

const node: AgentNode = {
  id: 'node-0123456789abcdef',
  name: 'host',
  version: '0.1.0',
  pools: [
    {
      id: 'pool-0123456789abcdef',
      directory: '/pool',
      totalBytes: 100,
      freeBytes: 5,
      provisionedBytes: 200,
      volumes: 1,
      lowSpace: true,
      fileSystem: {
        reflink: true,
        directMemoryAlignment: 512,
        directOffsetAlignment: 512,
        fsync: 'as-told',
      },
    },
  ],
  exports: { total: 2, connected: 1, failed: 0 },
};

const servers: Server[] = [];
const heartbeats: AgentHeartbeat[] = [];

/** A control plane that answers with the status of the moment. */
async function controlPlane(status: () => number) {
  const received: { url?: string; authorization?: string; body: unknown }[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => {
      received.push({
        url: request.url,
        authorization: request.headers.authorization,
        body: JSON.parse(body),
      });
      response.writeHead(status()).end('{}');
    });
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { received, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

function beat(controlPlaneUrl: string): AgentHeartbeat {
  const config = { controlPlaneUrl, joinToken: 'join', intervalMs: 5 };
  const heartbeat = new AgentHeartbeat(config, 'http://node:8701', { describe: async () => node });
  heartbeats.push(heartbeat);
  heartbeat.start();
  return heartbeat;
}

afterEach(() => {
  vi.restoreAllMocks();
  for (const heartbeat of heartbeats.splice(0)) heartbeat.stop();
  for (const server of servers.splice(0)) server.close();
});

describe('AgentHeartbeat', () => {
  it('tells the control plane who the node is and what it serves', async () => {
    const { received, url } = await controlPlane(() => 200);
    beat(url);
    while (received.length < 2) await sleep(2);
    expect(received[0]).toMatchObject({
      url: '/v1/nodes/node-0123456789abcdef/heartbeat',
      authorization: 'Bearer join',
      body: {
        name: 'host',
        agentUrl: 'http://node:8701',
        exports: 2,
        connectedExports: 1,
        pools: [
          {
            id: 'pool-0123456789abcdef',
            directory: '/pool',
            totalBytes: 100,
            freeBytes: 5,
            provisionedBytes: 200,
            volumes: 1,
            lowSpace: true,
          },
        ],
      },
    });
  });

  it('logs an outage once when it begins and once when it ends', async () => {
    const warn = vi.spyOn(Logger.prototype, 'warn').mockReturnValue();
    const log = vi.spyOn(Logger.prototype, 'log').mockReturnValue();
    let status = 503;
    const { received, url } = await controlPlane(() => status);
    beat(url);
    while (received.length < 4) await sleep(2);
    status = 200;
    while (received.length < 8) await sleep(2);
    expect(warn).toHaveBeenCalledTimes(1);
    expect(log).toHaveBeenCalledTimes(1);
  });

  it('goes on when nobody listens', async () => {
    const warn = vi.spyOn(Logger.prototype, 'warn').mockReturnValue();
    const { url } = await controlPlane(() => 200);
    await new Promise((resolve) => servers.splice(0)[0]?.close(resolve));
    beat(url);
    await sleep(60);
    expect(warn).toHaveBeenCalledTimes(1);
  });

  it('sends nothing after it was stopped', async () => {
    const { received, url } = await controlPlane(() => 200);
    const heartbeat = beat(url);
    while (received.length < 1) await sleep(2);
    heartbeat.stop();
    await sleep(20);
    const { length } = received;
    await sleep(30);
    expect(received.length).toBe(length);
  });
});
