import type { AddressInfo } from 'node:net';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { AgentError } from '@cairn/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AppModule } from '../app.module.js';
import type { ExportRegistry } from '../exports/export.registry.js';
import type { MetricsText } from '../metrics/metrics.text.js';
import type { NodeReport } from '../node/node.report.js';
import type { Coalescing } from '../snapshots/coalescing.js';
import type { NodeSnapshots } from '../snapshots/node-snapshots.js';
import type { SnapshotData } from '../snapshots/snapshot-data.js';
import type { SnapshotWriting } from '../snapshots/snapshot-writing.js';
import type { UsageMeter } from '../snapshots/usage-meter.js';

const id = 'vol-0123456789abcdef';
const volume = { id, sizeBytes: 1048576, allocatedBytes: 0, createdAt: '2026-01-01T00:00:00.000Z' };

let app: NestExpressApplication;
let url: string;
const asked: unknown[] = [];

beforeAll(async () => {
  Logger.overrideLogger(false);
  // Only the verbs that the cases below call: what they do is tested with the registry itself.
  const registry = {
    putVolume: async (...verb: unknown[]) => (asked.push(verb), volume),
    deleteVolume: async () => {
      throw new AgentError('volume-exported', 'exported');
    },
    listVolumes: async () => {
      throw new Error('a defect with a secret in its text');
    },
  };
  const snapshots = { take: async (request: unknown) => (asked.push(request), []) };
  app = await NestFactory.create<NestExpressApplication>(
    AppModule.of({
      agentToken: 'secret',
      registry: registry as unknown as ExportRegistry,
      snapshots: snapshots as unknown as NodeSnapshots,
      coalescing: { start: () => undefined } as Coalescing,
      usage: { latest: { usage: [] } } as unknown as UsageMeter,
      data: {} as SnapshotData,
      writing: {} as SnapshotWriting,
      report: {} as NodeReport,
      metrics: { render: async () => 'cairn_up 1\n' } as unknown as MetricsText,
    }),
    { logger: false },
  );
  await app.listen(0, '127.0.0.1');
  url = `http://127.0.0.1:${(app.getHttpServer().address() as AddressInfo).port}`;
});
afterAll(() => app.close());

const send = async (method: string, path: string, body?: string, token = 'secret') => {
  const response = await fetch(url + path, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    body,
  });
  return {
    status: response.status,
    body: JSON.parse(await response.text()) as { code?: string; errors?: unknown[] },
  };
};

describe('the agent API', () => {
  it('hands a checked verb to the registry', async () => {
    expect(await send('PUT', `/v1/volumes/${id}`, '{"sizeBytes":1048576}')).toEqual({
      status: 200,
      body: volume,
    });
    expect(asked).toEqual([[id, { sizeBytes: 1048576 }]]);
  });

  it('hands a checked group of snapshots on, and refuses one that is not', async () => {
    const of = (...ids: string[]) => ({ snapshots: ids.map((volumeId) => ({ snapshotId, volumeId })) });
    const snapshotId = 'snap-0123456789abcdef';
    asked.length = 0;
    expect(await send('PUT', '/v1/snapshots', JSON.stringify(of(id)))).toEqual({
      status: 200,
      body: { snapshots: [] },
    });
    expect(asked.splice(0)).toEqual([of(id)]);
    for (const bad of [of(), of(id, 'vol-fedcba9876543210'), of('vol-1'), { ...of(id), groupId: 'grp' }]) {
      const answer = await send('PUT', '/v1/snapshots', JSON.stringify(bad));
      expect(answer).toMatchObject({ status: 400, body: { code: 'invalid-argument' } });
    }
    expect(asked).toEqual([]);
  });

  it.each(['', 'wrong', 'secrets', 'secre'])('refuses the token %j', async (token) => {
    expect(await send('GET', `/v1/volumes/${id}`, undefined, token)).toMatchObject({
      status: 401,
      body: { code: 'unauthorized' },
    });
  });

  it('tells that it lives without a token, and nothing else', async () => {
    expect(await (await fetch(`${url}/health/live`)).json()).toEqual({ status: 'ok' });
    expect((await fetch(`${url}/metrics`)).status).toBe(401);
  });

  it.each([
    ['bad JSON', '{"sizeBytes":'],
    ['no body', undefined],
    ['a list', '[]'],
    ['an unknown field', '{"sizeBytes":1048576,"x":1}'],
    ['2^60 bytes', '{"sizeBytes":1152921504606846976}'],
  ])('refuses %s with 400', async (_, body) => {
    expect(await send('PUT', `/v1/volumes/${id}`, body)).toMatchObject({
      status: 400,
      body: { code: 'invalid-argument' },
    });
  });

  it('refuses an id that is none, and a route that is none', async () => {
    expect(await send('GET', '/v1/volumes/..%2fetc')).toMatchObject({
      status: 400,
      body: { code: 'invalid-argument' },
    });
    expect(await send('GET', '/v1/nothing')).toMatchObject({
      status: 404,
      body: { code: 'route-not-found' },
    });
  });

  it('answers a refusal with its code and status, and a defect without its text', async () => {
    expect(await send('DELETE', `/v1/volumes/${id}`)).toMatchObject({
      status: 409,
      body: { code: 'volume-exported', retryable: true },
    });
    const defect = await send('GET', '/v1/volumes');
    expect(defect).toMatchObject({ status: 500, body: { code: 'internal' } });
    expect(JSON.stringify(defect.body)).not.toContain('secret');
  });

  it('gives metrics to who knows the token', async () => {
    const response = await fetch(`${url}/metrics`, { headers: { authorization: 'Bearer secret' } });
    expect([response.status, await response.text()]).toEqual([200, 'cairn_up 1\n']);
    expect(response.headers.get('content-type')).toContain('version=0.0.4');
  });
});
