import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { speakAnotherVersion } from '../support/other-version.js';
import { RestClient } from '../support/rest-client.js';
import { RingLoad } from '../support/ring-load.js';
import { eventually } from '../support/stack.js';
import { appOf, processesOf, program, Up } from '../support/up-process.js';

const BLOCKS = 512;

interface Ended {
  code: number;
  output: string;
}

/** `cairn reload`, to its end. */
const reload = (directory: string): Promise<Ended> =>
  new Promise((resolve) => {
    execFile(process.execPath, [program, 'reload', '--data-dir', directory], (error, stdout, stderr) =>
      resolve({ code: Number(error?.code ?? 0), output: stdout + stderr }),
    );
  });

describe('the data plane under cairn up', () => {
  let directory: string;
  let up: Up;
  let socketPath: string;
  let disk: FakeBlkDisk;
  let load: RingLoad;

  const dataPlane = () => appOf(directory, 'data-plane');
  const dataPlanes = () =>
    processesOf(directory, 'data-plane/src/main.js').filter((pid) =>
      readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('node'),
    );

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-up-'));
    chmodSync(directory, 0o755);
    up = await new Up(directory).isUp();
    const { url } = JSON.parse(readFileSync(join(directory, 'endpoint.json'), 'utf8')) as { url: string };
    const api = new RestClient(url, readFileSync(join(directory, 'secrets/api-key'), 'utf8').trim());
    const volume = await api.createVolume(BLOCKS * 4096);
    const { connection } = await api.attach(volume.id, { numQueues: 2 });
    ({ socketPath } = connection);
    disk = await FakeBlkDisk.open(socketPath, { numQueues: 2, inflight: true, timeoutMs: 60_000 });
    load = new RingLoad(disk, { blocks: BLOCKS, depth: 16, seed: 1 });
    await load.advance(50);
  });
  afterAll(async () => {
    disk?.close();
    up?.signal('SIGTERM');
    await up?.exited;
    rmSync(directory, { recursive: true, force: true });
  });

  it('gives its guests to another one at cairn reload, which tells how that goes', async () => {
    const before = dataPlane();
    const { code, output } = await reload(directory);
    expect(output).toContain('starting another data-plane');
    expect(output).toContain('took over 1 of 1 exports');
    expect(output).toContain('the new data-plane has taken over');
    expect(output).toContain('the data-plane before it has ended');
    expect(code).toBe(0);
    expect(dataPlanes()).toEqual([dataPlane()]);
    expect(dataPlane()).not.toBe(before);
    await load.advance(200);
  });

  it('does so at SIGHUP', async () => {
    const before = dataPlane();
    up.signal('SIGHUP');
    await eventually('another data plane', () => dataPlane() !== before && dataPlanes().length === 1);
    await load.advance(200);
    expect(disk.frontend.stream.isClosed()).toBe(false);
  });

  it('goes on when the other one cannot take over, and the reason is told', async () => {
    const before = dataPlane();
    const giveBack = await speakAnotherVersion(join(directory, 'state'), 99);
    const { code, output } = await reload(directory);
    await giveBack();
    expect(output).toContain('it speaks version 99 of the hand-over');
    expect(output).toMatch(
      /another data-plane ended with 78 before it was ready\ncairn: The one that ran before goes on/,
    );
    expect(code).toBe(1);
    expect(dataPlanes()).toEqual([before]);
    await load.advance(200);
    expect((await reload(directory)).code).toBe(0);
  });

  it('refuses a second one while the first one takes over', async () => {
    const answers = await Promise.all([reload(directory), reload(directory)]);
    expect(answers.filter(({ code }) => code === 0)).toHaveLength(1);
    expect(answers.find(({ code }) => code === 1)!.output).toContain('is taking over already');
    expect(dataPlanes()).toHaveLength(1);
  });

  it('is started again when it is killed, whichever it was', async () => {
    const before = dataPlane();
    expect(up.output).not.toContain('starting it again');
    process.kill(before, 'SIGKILL');
    await eventually('another data plane', () => dataPlane() !== undefined && dataPlane() !== before);
    await eventually('its socket', () =>
      disk.reconnect(socketPath, { patienceMs: 1000 }).then(
        () => true,
        () => false,
      ),
    );
    expect(up.output).toMatch(/data-plane ended with 137; starting it again/);
    await load.advance(200);
    await load.finish();
  });

  it('is stopped with the rest', async () => {
    disk.close();
    up.signal('SIGTERM');
    expect(await up.exited).toBe(0);
    await eventually('the end of every process', () => processesOf(directory).length === 0, 5000);
    const { code, output } = await reload(directory);
    expect(code).toBe(1);
    expect(output).toContain(`no 'cairn up' runs on ${directory}`);
  });
});
