import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { MIB, newId } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startExport } from '../support/export-process.js';
import { LoneNode, TOKEN } from '../support/lone-node.js';
import { serveDisks } from '../support/served-disks.js';

const PROGRAM = fileURLToPath(new URL('../../dist/apps/cli/src/main.js', import.meta.url));

/** What `cairn top` prints, and with which status it ends; its data directory is empty. */
const top = async (args: readonly string[], env: Record<string, string> = {}) => {
  const { PATH = '' } = process.env;
  const run = promisify(execFile)(process.execPath, [PROGRAM, 'top', '--data-dir', '/nowhere', ...args], {
    env: { PATH, ...env },
  });
  return run.catch((error: { stdout: string; stderr: string; code: number }) => error);
};

interface Look {
  seconds: number;
  volumes: {
    volume: string;
    guest: string;
    readsPerSecond: number;
    latencyMicros: { file: { p99: number } };
  }[];
  reactors: { rings: number }[];
  pools: { totalBytes: number; freeBytes: number; promisedBytes: number; lowSpace: boolean }[];
}

describe('cairn top', () => {
  const closers: (() => unknown)[] = [];
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-top-'));
    closers.push(() => rmSync(directory, { recursive: true }));
  });
  afterEach(async () => {
    for (const close of closers.splice(0).toReversed()) await close();
  });

  /** Reads a disk, one request after the other, until the test is over. */
  const read = async (socket: string): Promise<void> => {
    const disk = await FakeBlkDisk.open(socket, { timeoutMs: 60_000 });
    const load = { over: false };
    const reading = (async () => {
      while (!load.over) await disk.read(0, 4096);
    })().catch(() => undefined);
    closers.push(async () => {
      load.over = true;
      await reading;
      disk.close();
    });
  };

  it('shows each volume of a data plane, the busy one first', async () => {
    const node = await LoneNode.start({ CAIRN_REACTORS: '2' });
    closers.push(() => node.stop());
    const [idle, busy] = [newId('vol'), newId('vol')];
    await node.attach(idle, { sizeBytes: MIB });
    await read(await node.attach(busy, { sizeBytes: MIB }));
    const tokenFile = join(directory, 'token');
    writeFileSync(tokenFile, `${TOKEN}\n`);

    const asked = ['--agent-url', node.agentUrl, '--agent-token-file', tokenFile];
    const json = await top([...asked, '--once', '--json']);
    const look = JSON.parse(json.stdout) as Look;
    expect(look.volumes.map(({ volume, guest }) => [volume, guest])).toEqual([
      [busy, 'yes'],
      [idle, 'no'],
    ]);
    expect(look.volumes[0]!.readsPerSecond).toBeGreaterThan(1);
    expect(look.volumes[0]!.latencyMicros.file.p99).toBeGreaterThan(0);
    expect(look.volumes[1]).toMatchObject({ readsPerSecond: 0, latencyMicros: { file: {} } });
    expect(look.reactors.reduce((sum, { rings }) => sum + rings, 0)).toBe(1);
    expect(look.pools).toMatchObject([{ promisedBytes: 2 * MIB, lowSpace: false }]);
    expect(look.pools[0]!.freeBytes).toBeGreaterThan(0);
    expect(look.pools[0]!.freeBytes).toBeLessThan(look.pools[0]!.totalBytes);

    // The same for people; not on a terminal, looks follow one another.
    const env = { CAIRN_AGENT_URL: node.agentUrl, CAIRN_AGENT_TOKEN: TOKEN };
    const { stdout } = await top(['--count', '2', '--sort', 'name'], env);
    expect(stdout.match(/^VOLUME +GUEST /gm)).toHaveLength(2);
    expect(stdout).toMatch(new RegExp(`^${busy} +yes +[1-9]`, 'm'));
    expect(stdout).toMatch(/^reactor 1: \d+% CPU/m);
    expect(stdout).not.toContain('\u001B');
  });

  it('shows the disks of a cairn export', async () => {
    const control = join(directory, 'control');
    const served = await serveDisks((options) => startExport({ ...options, args: ['--control', control] }), {
      sizeBytes: MIB,
    });
    closers.push(() => served.close());
    await read(served.sockets[0]!);
    const { stdout } = await top(['--control', control, '--once', '--json']);
    const look = JSON.parse(stdout) as Look;
    expect(look.volumes).toMatchObject([{ volume: served.files[0], guest: 'yes' }]);
    expect(look.volumes[0]!.readsPerSecond).toBeGreaterThan(1);
    expect(look.reactors.length).toBeGreaterThan(0);
  });

  it('says what is wrong where it finds nobody', async () => {
    expect(await top([])).toMatchObject({ code: 1, stderr: expect.stringContaining('--agent-url') });
    const nobody = { CAIRN_AGENT_URL: 'http://127.0.0.1:1' };
    expect(await top([], nobody)).toMatchObject({ code: 1, stderr: expect.stringContaining('agent token') });
    expect(await top([], { ...nobody, CAIRN_AGENT_TOKEN: 'x' })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('no data plane answers'),
    });
    const node = await LoneNode.start();
    closers.push(() => node.stop());
    const stranger = { CAIRN_AGENT_URL: node.agentUrl, CAIRN_AGENT_TOKEN: 'another' };
    expect(await top([], stranger)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('another agent token'),
    });
  });
});
