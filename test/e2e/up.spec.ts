import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../support/stack.js';
import { appOf, processesOf, program, root, Up } from '../support/up-process.js';

const run = promisify(execFile);

describe('cairn up', () => {
  let directory: string;
  let taken: Server;
  let up: Up;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-up-'));
    chmodSync(directory, 0o755);
    // The usual port is taken, by us or by somebody else.
    taken = createServer();
    await new Promise<void>((resolve) => {
      taken.once('error', () => resolve());
      taken.listen(8700, '127.0.0.1', resolve);
    });
    up = await new Up(directory).isUp();
  });
  afterAll(() => {
    up?.signal('SIGKILL');
    taken.close();
    rmSync(directory, { recursive: true, force: true });
  });

  it('tells the address, the key it made and where that is kept, closed to others', () => {
    const key = readFileSync(join(directory, 'secrets/api-key'), 'utf8').trim();
    expect(up.output).toContain(key);
    expect(up.output).toContain(join(directory, 'secrets/api-key'));
    expect(statSync(join(directory, 'secrets')).mode & 0o077).toBe(0);
    for (const name of readdirSync(join(directory, 'secrets'))) {
      expect(statSync(join(directory, 'secrets', name)).mode & 0o077, name).toBe(0);
    }
  });

  it('takes the next free port when the usual one is taken, and says so', () => {
    expect(up.output).toMatch(/port 8700 is taken; the API listens on 87\d\d/);
    expect(up.output).not.toMatch(/API +http:\/\/127\.0\.0\.1:8700\//);
  });

  it('is found by cairn top, with all that its data plane tells', async () => {
    const { PATH = '' } = process.env;
    const { stdout } = await run(process.execPath, [program, 'top', '--once', '--json'], {
      env: { PATH, CAIRN_DATA_DIR: directory },
    });
    const { volumes, reactors } = JSON.parse(stdout) as { volumes: unknown[]; reactors: unknown[] };
    expect(volumes).toEqual([]);
    expect(reactors.length).toBeGreaterThan(0);
  });

  it('shows no secret in arguments or environments of its processes', () => {
    const secrets = readdirSync(join(directory, 'secrets'))
      .filter((name) => name !== 'database-url')
      .map((name) => readFileSync(join(directory, 'secrets', name), 'utf8').trim());
    for (const pid of processesOf(directory)) {
      const text =
        readFileSync(`/proc/${pid}/cmdline`, 'latin1') + readFileSync(`/proc/${pid}/environ`, 'latin1');
      expect(secrets.filter((secret) => text.includes(secret))).toEqual([]);
    }
  });

  it('serves the session with curl of the README as it stands', async () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8');
    const [, session = ''] = /### A session with curl[\s\S]*?```sh\n([\s\S]*?)```/.exec(readme) ?? [];
    expect(session).toContain('curl');
    const { stdout, stderr } = await run('bash', ['-c', session], {
      cwd: root,
      env: { ...process.env, CAIRN_DATA_DIR: directory },
      timeout: 90_000,
    });
    expect(stderr).toBe('');
    expect(stdout.match(/^succeeded$/gm)).toHaveLength(9);
    expect(stdout).toContain('"state":"available"');
    expect(stdout).toMatch(/"socketPath":"[^"]+vol-[0-9a-f]{17}\.sock/);
    expect(stdout).toContain('"currentState":"in-use"');
  });

  it('refuses a second stack on the same directory, and leaves the first alone', async () => {
    const second = new Up(directory);
    expect(await second.exited).toBe(1);
    expect(second.output).toMatch(/process \d+ already runs a stack on/);
    expect(second.output).toContain('--data-dir');
  });

  it('starts a process again that was killed', async () => {
    const worker = appOf(directory, 'worker');
    process.kill(worker, 'SIGKILL');
    await eventually('another worker', () => {
      const now = appOf(directory, 'worker');
      return now !== undefined && now !== worker;
    });
    expect(up.output).toContain('worker ended with');
    const { stdout } = await run(process.execPath, [
      program,
      ...['volume', 'create', '--size', '1M', '--data-dir', directory],
    ]);
    expect(stdout).toMatch(/^vol-[0-9a-f]{17} +available/);
  });

  it('takes everything with it when it is killed, and comes up again on the same data', async () => {
    up.signal('SIGKILL');
    await up.exited;
    await eventually('the end of every process', () => processesOf(directory).length === 0);
    up = await new Up(directory).isUp();
    expect(up.output).toContain('made at first start');
    const { stdout } = await run(process.execPath, [program, 'volume', 'list', '--data-dir', directory]);
    expect(stdout).toMatch(/available +1048576/);
  });

  it('ends with 0 at SIGTERM, everything stopped in order', async () => {
    up.signal('SIGTERM');
    expect(await up.exited).toBe(0);
    // The guards' own watchers may sleep out their second.
    await eventually('the end of every process', () => processesOf(directory).length === 0, 5000);
    expect(up.output).toContain('database system is shut down');
    expect(existsSync(join(directory, 'lock'))).toBe(false);
  });
});
