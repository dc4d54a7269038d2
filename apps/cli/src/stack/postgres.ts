import { spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { Tethered } from '@cairn/qemu';
import { CliError } from '../cli-error.js';
import { findPostgresBinaries, findRunAs, type PostgresBinaries, type RunAs } from './postgres-binaries.js';

/** The user and the database that the apps use. */
const name = 'cairn';

/** The environment PostgreSQL runs in: no PG* variable of the caller may change what it does. */
const environment = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

/**
 * The embedded PostgreSQL: a real server of its own data directory, on the loopback interface only.
 *
 * The package's own class is not used, only its binaries: it takes over this process's signals, which would stop the
 * database before the apps that use it, and does not stop the server when this process is killed.
 */
export class PostgresServer {
  private readonly binaries: PostgresBinaries;
  private readonly runAs: RunAs;

  constructor(
    private readonly directory: string,
    private readonly password: string,
    /** More settings of the server, `name=value`. */
    private readonly settings: readonly string[] = [],
  ) {
    this.binaries = findPostgresBinaries();
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.runAs = findRunAs([this.binaries.postgres, join(directory, '..')]);
    if (this.runAs.owner) chownSync(directory, this.runAs.owner.uid, this.runAs.owner.gid);
  }

  /** Makes the database cluster on first use, and ends or forgets a server that an earlier run left behind. */
  async prepare(): Promise<void> {
    await this.endLeftover();
    if (existsSync(join(this.directory, 'data', 'PG_VERSION'))) return;
    this.initialise();
  }

  /** Starts the server; it is up when `waitUntilUp` resolves. */
  start(port: number, onOutput: (chunk: string) => void): Tethered {
    const [command = '', ...args] = [
      ...this.runAs.prefix,
      this.binaries.postgres,
      ...['-D', join(this.directory, 'data'), '-p', String(port)],
      ...['-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories='],
      ...['-c', 'max_connections=100', '-c', 'log_timezone=UTC', '-c', 'timezone=UTC'],
      ...this.settings.flatMap((setting) => ['-c', setting]),
    ];
    const options = { stopSignal: 'INT', cwd: '/', env: environment, ...this.runAs.ids } as const;
    return Tethered.start(command, args, onOutput, options);
  }

  /** The address of the apps' database. It holds the password. */
  urlOf(port: number, database = name): string {
    return `postgres://${name}:${encodeURIComponent(this.password)}@127.0.0.1:${port}/${database}`;
  }

  /** Resolves once the server takes connections and the apps' database exists. */
  async waitUntilUp(port: number, isRunning: () => boolean, timeoutMs = 60_000): Promise<void> {
    for (const deadline = Date.now() + timeoutMs; ; await sleep(50)) {
      const failure = await this.ensureDatabase(port);
      if (!failure) return;
      if (isRunning() && Date.now() < deadline) continue;
      throw new CliError(
        `PostgreSQL did not start: ${failure.message}`,
        `Its output is in the logs of the data directory, and its data in ${this.directory}.`,
        { cause: failure },
      );
    }
  }

  private async ensureDatabase(port: number): Promise<Error | undefined> {
    const client = new pg.Client({ connectionString: this.urlOf(port, 'postgres') });
    client.on('error', () => undefined);
    try {
      await client.connect();
      const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [name]);
      if (rowCount === 0) await client.query(`CREATE DATABASE ${name}`);
      return undefined;
    } catch (error) {
      return error as Error;
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  /** The cluster is made beside its place and moved there, so a broken-off initdb is never taken for one. */
  private initialise(): void {
    const data = join(this.directory, 'data');
    const scratch = join(this.directory, 'initdb');
    const passwordFile = join(this.directory, 'password');
    rmSync(scratch, { recursive: true, force: true });
    rmSync(data, { recursive: true, force: true });
    writeFileSync(passwordFile, `${this.password}\n`, { mode: 0o600 });
    try {
      if (this.runAs.owner) chownSync(passwordFile, this.runAs.owner.uid, this.runAs.owner.gid);
      const [command = '', ...args] = [
        ...this.runAs.prefix,
        this.binaries.initdb,
        ...['--pgdata', scratch, '--username', name, '--pwfile', passwordFile],
        ...['--auth', 'scram-sha-256', '--encoding', 'UTF8', '--locale', 'C'],
      ];
      const result = spawnSync(command, args, {
        ...this.runAs.ids,
        cwd: '/',
        env: environment,
        encoding: 'utf8',
      });
      if (result.status !== 0) {
        throw new CliError(
          `initdb failed: ${result.error?.message ?? `${result.stdout}${result.stderr}`.trim()}`,
          `Check that there is space and that ${this.directory} can be written to.`,
        );
      }
      renameSync(scratch, data);
    } finally {
      rmSync(passwordFile, { force: true });
    }
  }

  /**
   * After a kill -9 of everything a server may go on without its supervisor, or postmaster.pid may name a process
   * that is now another one, which would keep PostgreSQL from starting.
   */
  private async endLeftover(): Promise<void> {
    const pidFile = join(this.directory, 'data', 'postmaster.pid');
    if (!existsSync(pidFile)) return;
    const pid = Number(readFileSync(pidFile, 'utf8').split('\n')[0]);
    const isOurs = () => commandLineOf(pid).includes(join(this.directory, 'data'));
    for (const [signal, timeoutMs] of [
      ['SIGINT', 20_000],
      ['SIGQUIT', 10_000],
    ] as const) {
      if (!isOurs()) break;
      process.kill(pid, signal);
      for (const deadline = Date.now() + timeoutMs; isOurs() && Date.now() < deadline;) await sleep(50);
    }
    if (isOurs()) {
      throw new CliError(
        `an earlier PostgreSQL (process ${pid}) does not stop`,
        `Stop it by hand: kill -9 ${pid}`,
      );
    }
    rmSync(pidFile, { force: true });
  }
}

function commandLineOf(pid: number): string {
  try {
    return Number.isInteger(pid) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '';
  } catch {
    return '';
  }
}
