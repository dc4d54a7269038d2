import { createHash } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { AgentClient } from '@cairn/agent';
import { DataTickets, newId, SNAPSHOT_BLOCK_BYTES, type SnapshotId } from '@cairn/domain';
import { VolumeStore, type Step } from '@cairn/storage';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AppModule, type AppParts } from '../app.module.js';
import { NodeSnapshots } from './node-snapshots.js';
import { SnapshotData } from './snapshot-data.js';
import { SnapshotWriting } from './snapshot-writing.js';

const MIB = 2 ** 20;
const secret = 'join token';
const tickets = new DataTickets(secret);
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('base64');
const block = new Uint8Array(SNAPSHOT_BLOCK_BYTES).fill(7);

describe('writing snapshots from blocks', () => {
  let directory: string;
  let store: VolumeStore;
  let onStep: (step: Step) => Promise<void> | void;
  let app: NestExpressApplication;
  let url: string;
  let agent: AgentClient;
  let writing: SnapshotWriting;
  let id: SnapshotId;

  beforeEach(async () => {
    Logger.overrideLogger(false);
    directory = await mkdtemp(join(tmpdir(), 'cairn-writing-'));
    onStep = () => undefined;
    store = await VolumeStore.open({ directory, onStep: (step) => onStep(step) });
    writing = new SnapshotWriting({ pool: store, secret, intervalMs: 1000 });
    // Only what has to do with snapshots is asked for here.
    const parts: Partial<AppParts> = {
      agentToken: 'token',
      snapshots: new NodeSnapshots({
        pool: store,
        exports: { switchHeads: async () => undefined },
        deleted: () => undefined,
      }),
      data: new SnapshotData(store, secret),
      writing,
      registry: {} as AppParts['registry'],
      coalescing: {} as AppParts['coalescing'],
      usage: {} as AppParts['usage'],
      report: {} as AppParts['report'],
      metrics: {} as AppParts['metrics'],
    };
    app = await NestFactory.create<NestExpressApplication>(AppModule.of(parts as AppParts), {
      logger: false,
    });
    await app.listen(0, '127.0.0.1');
    url = `http://127.0.0.1:${(app.getHttpServer().address() as AddressInfo).port}`;
    agent = new AgentClient({ baseUrl: url, token: 'token' });
    id = newId('snap');
    await agent.startWriting(id, { sizeBytes: MIB, timeoutMs: 60_000 });
  });
  afterEach(async () => {
    await app.close();
    await store.close();
    await rm(directory, { recursive: true });
  });

  const ticketOf = (snapshotId: SnapshotId, access: 'read' | 'write' = 'write') =>
    tickets.seal({ access, snapshotId, expiresAt: Date.now() + 60_000 });
  const put = async (
    index: number | string,
    options: { body?: RequestInit['body']; headers?: Record<string, string>; ticket?: string } = {},
  ) => {
    const { body = block, headers = {}, ticket = ticketOf(id) } = options;
    const response = await fetch(`${url}/v1/data/${ticket}/blocks/${index}`, {
      method: 'PUT',
      headers: {
        'content-type': 'application/octet-stream',
        'x-cairn-sha256': sha256(block),
        ...headers,
      },
      body: body ?? null,
      duplex: 'half',
    });
    const { code = 'put' } = (await response.json()) as { code?: string };
    return `${response.status} ${code}`;
  };

  it('begins, takes blocks by ticket, tells how far it is, and completes, each as often as it is asked', async () => {
    await agent.startWriting(id, { sizeBytes: MIB, timeoutMs: 60_000 });
    expect(await put(1, { headers: { 'x-cairn-progress': '50' } })).toBe('201 put');
    expect(await agent.listSnapshotIds()).toEqual({ ids: [], writing: [{ id, percent: 50 }] });
    const other = newId('snap');
    await agent.startWriting(other, { sizeBytes: MIB, timeoutMs: 60_000 });
    expect((await agent.listSnapshotIds()).writing).toContainEqual({ id: other });
    const wrong = agent.completeWriting(id, { changedBlocks: 2 });
    await expect(wrong).rejects.toMatchObject({ code: 'checksum-mismatch', retryable: false });
    for (let i = 0; i < 2; i += 1)
      expect(await agent.completeWriting(id, { changedBlocks: 1 })).toEqual({ id, sizeBytes: MIB });
    expect((await agent.listSnapshotIds()).ids).toEqual([id]);
    expect(await agent.listSnapshots()).toEqual([{ id, sizeBytes: MIB }]);
    const again = agent.startWriting(id, { sizeBytes: MIB, timeoutMs: 60_000 });
    await expect(again).rejects.toMatchObject({ code: 'snapshot-exists' });
  });

  it.each([
    ['another SHA-256', { headers: { 'x-cairn-sha256': sha256(new Uint8Array(1)) } }, 'checksum-mismatch'],
    ['no bytes', { body: '' }, 'checksum-mismatch'],
    ['too many bytes', { body: new Uint8Array(SNAPSHOT_BLOCK_BYTES + 1) }, 'invalid-argument'],
    ['a progress that is none', { headers: { 'x-cairn-progress': '101' } }, 'invalid-argument'],
    ['another type', { headers: { 'content-type': 'application/json' }, body: '{}' }, 'invalid-argument'],
  ])('refuses a block with %s', async (_, options, code) => {
    expect(await put(0, options)).toBe(`400 ${code}`);
    await agent.completeWriting(id, { changedBlocks: 0 });
  });

  it('answers one who sends without an end, and takes the next block on the same connection', async () => {
    const endless = new ReadableStream({
      start: (controller) => {
        for (let i = 0; i < 3; i += 1) controller.enqueue(block);
        controller.close();
      },
    });
    expect(await put(0, { body: endless })).toBe('400 invalid-argument');
    expect(await put(0)).toBe('201 put');
  });

  it('leaves room for other snapshots when one is sent to slowly in many places', async () => {
    const other = newId('snap');
    await agent.startWriting(other, { sizeBytes: MIB, timeoutMs: 60_000 });
    const ends: (() => void)[] = [];
    const trickle = () =>
      new ReadableStream({
        start: (body) => {
          body.enqueue(Uint8Array.of(7));
          ends.push(() => body.error(new Error('off')));
        },
      });
    const slow = Array.from({ length: 40 }, () => put(1, { body: trickle() }));
    for (const one of slow) one.catch(() => undefined);
    await expect.poll(() => put(0)).toBe('409 snapshot-busy');
    expect(await put(0, { ticket: ticketOf(other) })).toBe('201 put');
    for (const end of ends) end();
    await Promise.allSettled(slow);
    await expect.poll(() => put(0)).toBe('201 put');
  });

  it.each(['2', 'x', '-1', '1e3', '99999999999999'])('refuses the index %s', async (index) => {
    expect(await put(index)).toBe('400 invalid-argument');
  });

  it('takes a ticket for what it says and nothing else', async () => {
    const other = newId('snap');
    expect(await put(0, { ticket: ticketOf(other) })).toBe('404 snapshot-not-found');
    expect(await put(0, { ticket: ticketOf(id, 'read') })).toBe('401 unauthorized');
    expect(await put(0, { ticket: ticketOf(id).replace(id, other) })).toBe('401 unauthorized');
    expect(await put(0, { ticket: tickets.seal({ access: 'write', snapshotId: id, expiresAt: 1 }) })).toBe(
      '401 unauthorized',
    );
    await agent.completeWriting(id, { changedBlocks: 0 });
    const read = async (access: 'read' | 'write') =>
      (await fetch(`${url}/v1/data/${ticketOf(id, access)}/blocks`)).status;
    expect([await read('read'), await read('write')]).toEqual([200, 401]);
  });

  it('says that it is busy while it reads what was put, and later how that went', async () => {
    await put(0);
    let resume: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (resume = resolve));
    onStep = (step) => (step === 'write-snapshot.flushed' ? held : undefined);
    const wrong = { changedBlocks: 2 };
    await expect(agent.completeWriting(id, wrong)).rejects.toMatchObject({
      code: 'snapshot-busy',
      retryable: true,
    });
    expect(await put(1)).toBe('409 snapshot-busy');
    resume();
    await expect(agent.completeWriting(id, wrong)).rejects.toMatchObject({ code: 'checksum-mismatch' });
    expect(await put(1)).toBe('201 put');
    await agent.completeWriting(id, wrong);
  });

  it('removes what nothing was put into for too long', async () => {
    await put(0);
    await writing.removeExpired(Date.now() + 50_000);
    expect((await agent.listSnapshotIds()).writing).toHaveLength(1);
    await writing.removeExpired(Date.now() + 61_000);
    expect((await agent.listSnapshotIds()).writing).toEqual([]);
    expect(await readdir(join(directory, 'layers'))).toEqual([]);
    expect(await put(0)).toBe('404 snapshot-not-found');
    await expect(agent.completeWriting(id, { changedBlocks: 1 })).rejects.toMatchObject({
      code: 'snapshot-not-found',
    });
  });
});
