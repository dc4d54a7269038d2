import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { Tethered } from '@cairn/qemu';
import { CliError } from '../cli-error.js';
import { newApiKey, newToken, type DataDirectory } from './data-directory.js';
import { takeLock } from './directory-lock.js';
import { freePort } from './free-port.js';
import { PostgresServer } from './postgres.js';
import { StackLog } from './stack-log.js';
import type { ProcessPlan } from './process-life.js';
import { SupervisedProcess } from './supervised.js';

/** How a stack is started. */
export interface StackOptions {
  dataDirectory: DataDirectory;
  /** Each line of every process, with its name before it. */
  print: (line: string) => void;
  /** 0 takes any free port; else the next free one is taken. */
  httpPort: number;
  agentPort: number;
  env?: NodeJS.ProcessEnv;
}

/** A secret's setting, and whether this start made it. */
interface Secrets {
  env: Record<string, string>;
  apiKey: { value: string; file: string; isNew: boolean };
}

/**
 * Everything on one machine: PostgreSQL (unless DATABASE_URL names one), control plane, worker and data plane, each a
 * process that is started again when it ends.
 *
 * They are started in that order and stopped in the order in which work flows, so nothing loses what it depends on:
 * no new requests, then no new effects, then the guests' disks are drained, then the database. All of them end when
 * this process does, however it ends.
 */
export class Stack {
  private readonly processes: SupervisedProcess[] = [];
  private releaseLock: () => void = () => undefined;
  private failStack: (reason: CliError) => void = () => undefined;

  /** Resolves when a process of the stack can never run again as it is configured. */
  readonly failed: Promise<CliError>;

  /** The address of the API. */
  url = '';
  /** The key made at first start. */
  apiKey: Secrets['apiKey'] = { value: '', file: '', isNew: false };

  private constructor(
    private readonly options: StackOptions,
    private readonly log: StackLog,
  ) {
    this.failed = new Promise((resolve) => {
      this.failStack = resolve;
    });
  }

  /** Starts everything and resolves when it serves. What was started is stopped again when something fails. */
  static async start(options: StackOptions): Promise<Stack> {
    const { dataDirectory } = options;
    dataDirectory.prepare();
    const stack = new Stack(options, new StackLog(dataDirectory.logs, options.print));
    stack.releaseLock = takeLock(dataDirectory.lock, dataDirectory.path);
    try {
      await stack.run();
      return stack;
    } catch (error) {
      await stack.stop();
      throw error;
    }
  }

  /**
   * Starts the data plane that is installed now beside the one that runs, and has it take over every guest; `tell` hears
   * how that goes. Throws CliError when it does not; then the one that runs goes on.
   */
  async reload(tell: (line: string) => void): Promise<void> {
    const dataPlane = this.processes.find(({ name }) => name === 'data-plane');
    if (!dataPlane) throw new CliError('the stack is not up');
    const { url } = await dataPlane.replace(tell);
    this.options.dataDirectory.writeAgentUrl(String(url));
  }

  /** Stops everything in order. */
  async stop(): Promise<void> {
    // Started last, stopped last, but for the database below them all.
    const [first, ...others] = this.processes;
    const inOrder = this.usesOwnDatabase ? [...others, ...(first ? [first] : [])] : this.processes;
    for (const process of inOrder) await process.stop();
    this.processes.length = 0;
    this.releaseLock();
  }

  private get env(): NodeJS.ProcessEnv {
    return this.options.env ?? process.env;
  }

  private get usesOwnDatabase(): boolean {
    return !this.env['DATABASE_URL'] && !this.env['DATABASE_URL_FILE'];
  }

  private async run(): Promise<void> {
    const { dataDirectory, httpPort, agentPort } = this.options;
    const host = this.env['CAIRN_HTTP_HOST'] ?? '127.0.0.1';
    const agentHost = this.env['CAIRN_AGENT_HOST'] ?? '127.0.0.1';
    const secrets = this.secrets();
    this.apiKey = secrets.apiKey;
    const databaseEnv = this.usesOwnDatabase ? await this.startDatabase() : {};
    const shared = { ...this.env, ...secrets.env, ...databaseEnv };

    const port = await freePort(host, httpPort);
    this.noteIfMoved('the API', httpPort, port);
    const controlPlane = await this.startApp('control-plane', {
      ...shared,
      CAIRN_HTTP_HOST: host,
      CAIRN_HTTP_PORT: String(port),
    });
    this.url = String(controlPlane['url']);

    const freeAgentPort = await freePort(agentHost, agentPort);
    this.noteIfMoved('the data plane', agentPort, freeAgentPort);
    const [, dataPlane] = await Promise.all([
      this.startApp('worker', shared),
      this.startApp('data-plane', {
        ...shared,
        CAIRN_AGENT_HOST: agentHost,
        CAIRN_AGENT_PORT: String(freeAgentPort),
        CAIRN_CONTROL_PLANE_URL: this.env['CAIRN_CONTROL_PLANE_URL'] ?? this.url,
        CAIRN_POOL_DIR: this.env['CAIRN_POOL_DIR'] ?? dataDirectory.pool,
        CAIRN_SOCKET_DIR: this.env['CAIRN_SOCKET_DIR'] ?? dataDirectory.sockets,
        CAIRN_STATE_DIR: this.env['CAIRN_STATE_DIR'] ?? dataDirectory.state,
      }),
    ]);
    await this.waitForNode();
    dataDirectory.writeEndpoint(this.url);
    dataDirectory.writeAgentUrl(String(dataPlane['url']));
  }

  private async startDatabase(): Promise<Record<string, string>> {
    const { dataDirectory } = this.options;
    const password = dataDirectory.ensureSecret('database-password', newToken).value;
    const server = new PostgresServer(dataDirectory.postgres, password);
    await server.prepare();
    const port = await freePort('127.0.0.1', 0);
    await this.launch({
      name: 'postgres',
      start: (onOutput) => server.start(port, onOutput),
      waitUntilUp: (isRunning) => server.waitUntilUp(port, isRunning),
      stopTimeoutMs: 30_000,
    });
    return { DATABASE_URL_FILE: dataDirectory.writeSecret('database-url', server.urlOf(port)) };
  }

  private startApp(name: string, env: NodeJS.ProcessEnv): Promise<Record<string, unknown>> {
    const main = fileURLToPath(new URL(`../../../${name}/src/main.js`, import.meta.url));
    if (!existsSync(main)) throw new CliError(`${main} does not exist`, 'Run "npm run build".');
    return this.launch({
      name,
      start: (onOutput) => Tethered.start(process.execPath, [main], onOutput, { stopSignal: 'INT', env }),
      stopTimeoutMs: 30_000,
    });
  }

  private launch(plan: ProcessPlan): Promise<Record<string, unknown>> {
    const supervised = new SupervisedProcess(plan, this.log, (reason) => this.failStack(reason));
    this.processes.push(supervised);
    return supervised.start();
  }

  /** Secrets are handed over as files, so that they show neither in `ps` nor in a process's environment. */
  private secrets(): Secrets {
    const { dataDirectory } = this.options;
    const apiKey = dataDirectory.ensureSecret('api-key', newApiKey);
    const files: Record<string, string> = {
      CAIRN_AGENT_TOKEN: dataDirectory.ensureSecret('agent-token', newToken).file,
      CAIRN_JOIN_TOKEN: dataDirectory.ensureSecret('join-token', newToken).file,
      CAIRN_BOOTSTRAP_API_KEY: apiKey.file,
    };
    const env: Record<string, string> = {};
    for (const [name, file] of Object.entries(files)) {
      if (!this.env[name] && !this.env[`${name}_FILE`]) env[`${name}_FILE`] = file;
    }
    return { env, apiKey };
  }

  private noteIfMoved(what: string, wanted: number, port: number): void {
    if (wanted !== 0 && wanted !== port) this.log.note(`port ${wanted} is taken; ${what} listens on ${port}`);
  }

  /** A node counts once it has reported; before that a volume would wait for one. */
  private async waitForNode(timeoutMs = 15_000): Promise<void> {
    for (const deadline = Date.now() + timeoutMs; Date.now() < deadline; await sleep(100)) {
      try {
        const answer = await fetch(`${this.url}/v1/nodes`, {
          headers: { authorization: `Bearer ${this.apiKey.value}` },
          signal: AbortSignal.timeout(2000),
        });
        const { nodes = [] } = (await answer.json()) as { nodes?: { state?: string }[] };
        if (!answer.ok || nodes.some(({ state }) => state === 'ready')) return;
      } catch {
        // It may be starting again.
      }
    }
    this.log.note('no node has reported yet; volumes wait until one does');
  }
}
