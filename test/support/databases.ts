import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { PostgresServer } from '../../apps/cli/src/stack/postgres.js';

/** A real PostgreSQL of the test's own, gone with its data after `stop`. */
export interface TestPostgres {
  /** Makes an empty database and returns its URL. */
  createDatabase(): Promise<string>;
  /** Takes the server down as an operator would, keeping the data. */
  shutDown(): Promise<void>;
  /** Brings it up again on the same port. */
  bringUp(): Promise<void>;
  stop(): Promise<void>;
}

/** A real Redis of the test's own. */
export interface TestRedis {
  url: string;
  shutDown(): Promise<void>;
  bringUp(): Promise<void>;
  stop(): Promise<void>;
}

/** A TCP port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('The kernel gave no port.');
  return address.port;
}

/** Starts PostgreSQL from the npm package. Durability is off: the data does not outlive the test. */
export async function startPostgres(): Promise<TestPostgres> {
  const directory = await mkdtemp(path.join(tmpdir(), 'cairn-test-pg-'));
  // PostgreSQL may run as a user of its own, which has to pass through.
  await chmod(directory, 0o755);
  const port = await freePort();
  const settings = ['fsync=off', 'synchronous_commit=off', 'max_connections=200'];
  const server = new PostgresServer(path.join(directory, 'postgres'), 'cairn', settings);
  await server.prepare();
  let running: ReturnType<PostgresServer['start']>;
  let log = '';
  const bringUp = async () => {
    const started = server.start(port, (text) => (log += text));
    running = started;
    try {
      await server.waitUntilUp(port, () => started.isRunning);
    } catch (error) {
      throw new Error(`PostgreSQL did not start:\n${log}`, { cause: error });
    }
  };
  await bringUp();
  let made = 0;
  return {
    async createDatabase() {
      made += 1;
      const name = `test_${made}`;
      await sql(server.urlOf(port, 'postgres'), `CREATE DATABASE ${name}`);
      return server.urlOf(port, name);
    },
    shutDown: () => running.stop(),
    bringUp,
    async stop() {
      await running.stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Runs one statement over a connection of its own and returns the rows. */
export async function sql<T extends object = Record<string, unknown>>(
  url: string,
  statement: string,
  parameters: unknown[] = [],
): Promise<T[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<T>(statement, parameters)).rows;
  } finally {
    await client.end();
  }
}

/** Starts redis-server from the PATH, without persistence. */
export async function startRedis(): Promise<TestRedis> {
  const directory = await mkdtemp(path.join(tmpdir(), 'cairn-test-redis-'));
  const port = await freePort();
  let server: ChildProcess;
  const bringUp = async () => {
    const settings = [
      '--port',
      `${port}`,
      '--bind',
      '127.0.0.1',
      '--save',
      '',
      '--appendonly',
      'no',
      '--dir',
      directory,
    ];
    const child = spawn('redis-server', settings, { stdio: ['ignore', 'pipe', 'inherit'] });
    server = child;
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`redis-server ended with ${code}`)));
      child.stdout.on('data', (chunk: Buffer) => {
        if (chunk.includes('Ready to accept connections')) resolve();
      });
    });
  };
  const shutDown = async () => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const exited = once(server, 'exit');
    server.kill('SIGTERM');
    await exited;
  };
  await bringUp();
  return {
    url: `redis://127.0.0.1:${port}`,
    shutDown,
    bringUp,
    async stop() {
      await shutDown();
      await rm(directory, { recursive: true, force: true });
    },
  };
}
