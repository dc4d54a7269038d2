import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentClient } from '@cairn/agent';
import { AppProcess } from './app-process.js';
import { freePort, startPostgres, startRedis, type TestPostgres, type TestRedis } from './databases.js';
import { RestClient } from './rest-client.js';

/** Where BullMQ keeps its queue. */
export type QueueKind = 'postgres' | 'redis';

/** The two back-ends that every e2e test runs against. */
export const queueKinds = ['postgres', 'redis'] as const satisfies readonly QueueKind[];

/** What to start. */
export interface StackOptions {
  readonly queue: QueueKind;
  readonly controlPlanes?: number;
  readonly workers?: number;
  /** More settings for every app. */
  readonly env?: Readonly<Record<string, string>>;
}

/** What a node has, seen from outside: nothing of it may be left when its volumes are gone. */
export interface NodeContents {
  readonly volumes: string[];
  readonly snapshots: string[];
  readonly exports: string[];
  readonly sockets: string[];
  readonly files: string[];
}

/** A node without volumes. */
export const emptyNode: NodeContents = { volumes: [], snapshots: [], exports: [], sockets: [], files: [] };

/** Short waits, so that a crash heals within a test. */
const impatience = {
  CAIRN_LEASE_MS: '1500',
  CAIRN_SWEEP_MS: '100',
  CAIRN_HEARTBEAT_MS: '250',
  CAIRN_AGENT_TIMEOUT_MS: '3000',
  CAIRN_HANDOVER_WAIT_MS: '0',
};

/**
 * The three built apps as child processes, over databases of their own, in a directory of their own.
 *
 * Always `stop` it, in a `finally` or an `afterAll`: it takes the processes, the databases and the files away.
 */
export class Stack {
  readonly controlPlanes: AppProcess[] = [];
  readonly workers: AppProcess[] = [];
  readonly poolDirectory: string;
  readonly socketDirectory: string;
  readonly stateDirectory: string;
  private readonly others: AppProcess[] = [];

  private constructor(
    readonly directory: string,
    readonly postgres: TestPostgres,
    readonly redis: TestRedis | undefined,
    readonly databaseUrl: string,
    readonly dataPlane: AppProcess,
    /** One client for each control plane. */
    readonly clients: RestClient[],
    readonly agent: AgentClient,
  ) {
    this.poolDirectory = join(directory, 'pool');
    this.socketDirectory = join(directory, 'sock');
    this.stateDirectory = join(directory, 'state');
  }

  /** Starts everything and resolves when the node has registered. */
  static async start(options: StackOptions): Promise<Stack> {
    // In the shortest place there is: a unix socket path has 107 bytes.
    const directory = await mkdtemp(join(tmpdir(), 'cairn-'));
    const postgres = await startPostgres();
    const redis = options.queue === 'redis' ? await startRedis() : undefined;
    const databaseUrl = await postgres.createDatabase();
    const apiKey = `cairn_${randomBytes(8).toString('hex')}_${randomBytes(32).toString('base64url')}`;
    const agentToken = randomBytes(16).toString('hex');
    const joinToken = randomBytes(16).toString('hex');

    const central = {
      DATABASE_URL: databaseUrl,
      ...(redis === undefined ? {} : { REDIS_URL: redis.url }),
      CAIRN_AGENT_TOKEN: agentToken,
      ...impatience,
      ...options.env,
    };
    const ports: number[] = [];
    for (let i = 0; i < (options.controlPlanes ?? 1); i += 1) ports.push(await freePort());
    const controlPlanes = ports.map(
      (port) =>
        new AppProcess('control-plane', {
          ...central,
          CAIRN_HTTP_PORT: String(port),
          CAIRN_BOOTSTRAP_API_KEY: apiKey,
          CAIRN_JOIN_TOKEN: joinToken,
        }),
    );
    const agentPort = await freePort();
    const dataPlane = new AppProcess('data-plane', {
      ...impatience,
      CAIRN_AGENT_PORT: String(agentPort),
      CAIRN_AGENT_TOKEN: agentToken,
      CAIRN_JOIN_TOKEN: joinToken,
      CAIRN_CONTROL_PLANE_URL: `http://127.0.0.1:${ports[0]}`,
      CAIRN_NODE_NAME: 'test-node',
      CAIRN_POOL_DIR: join(directory, 'pool'),
      CAIRN_SOCKET_DIR: join(directory, 'sock'),
      CAIRN_STATE_DIR: join(directory, 'state'),
      ...options.env,
    });
    const stack = new Stack(
      directory,
      postgres,
      redis,
      databaseUrl,
      dataPlane,
      ports.map((port) => new RestClient(`http://127.0.0.1:${port}`, apiKey)),
      new AgentClient({ baseUrl: `http://127.0.0.1:${agentPort}`, token: agentToken, timeoutMs: 10_000 }),
    );
    stack.controlPlanes.push(...controlPlanes);
    for (let i = 0; i < (options.workers ?? 1); i += 1) stack.workers.push(new AppProcess('worker', central));
    try {
      await Promise.all([...stack.controlPlanes, ...stack.workers, dataPlane].map((app) => app.start()));
      await stack.nodeReady();
      return stack;
    } catch (error) {
      await stack.stop();
      throw error;
    }
  }

  /** The API of the first control plane. */
  get api(): RestClient {
    return first(this.clients);
  }

  get controlPlane(): AppProcess {
    return first(this.controlPlanes);
  }

  get worker(): AppProcess {
    return first(this.workers);
  }

  /** A further data plane with settings that differ from the first one's; stopped with the stack. */
  anotherDataPlane(env: Readonly<Record<string, string>>): AppProcess {
    const app = new AppProcess('data-plane', { ...this.dataPlane.env, CAIRN_AGENT_PORT: '0', ...env });
    this.others.push(app);
    return app;
  }

  /** Waits until a node is ready to take volumes. */
  async nodeReady(): Promise<void> {
    await eventually('a ready node', async () =>
      (await this.api.nodes()).some(({ state }) => state === 'ready'),
    );
  }

  /** What is on the node now: asked of the agent, and of the file system behind its back. */
  async nodeContents(): Promise<NodeContents> {
    const sorted = (texts: string[]): string[] => texts.sort();
    return {
      volumes: sorted((await this.agent.listVolumes()).map(({ id }) => id)),
      snapshots: sorted((await this.agent.listSnapshots()).map(({ id }) => id)),
      exports: sorted((await this.agent.listExports()).map(({ volumeId }) => volumeId)),
      sockets: sorted((await readdir(this.socketDirectory)).filter((name) => name.startsWith('vol-'))),
      files: sorted([
        ...(await readdir(join(this.poolDirectory, 'volumes'))),
        ...(await readdir(join(this.poolDirectory, 'snapshots'))),
        ...(await readdir(join(this.poolDirectory, 'layers'))),
      ]),
    };
  }

  /** The head layer of a volume: the sparse file that its guest reads and writes. */
  async fileOf(volumeId: string): Promise<string> {
    const read = async (...path: string[]): Promise<Record<string, string>> =>
      JSON.parse(await readFile(join(this.poolDirectory, ...path), 'utf8')) as Record<string, string>;
    const { headLayer } = await read('volumes', `${volumeId}.json`);
    // A layer that took another one's bytes has that one's file.
    const { file = '' } = await read('layers', `${headLayer}.json`);
    return join(this.poolDirectory, 'layers', file);
  }

  /** Every log, for a failed test to print. */
  logs(): string {
    return [...this.controlPlanes, ...this.workers, this.dataPlane, ...this.others]
      .map(({ app, log }) => `--- ${app}\n${log}`)
      .join('\n');
  }

  /** Ends every process and removes every file. */
  async stop(): Promise<void> {
    await Promise.all(
      [...this.workers, ...this.controlPlanes, this.dataPlane, ...this.others].map((app) => app.kill()),
    );
    await this.redis?.stop();
    await this.postgres.stop();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** Waits until the condition holds; a condition that throws does not hold yet. */
export async function eventually(
  what: string,
  condition: () => Promise<boolean> | boolean,
  timeoutMs = 30_000,
): Promise<void> {
  let trouble: unknown;
  for (
    const until = Date.now() + timeoutMs;
    Date.now() < until;
    await new Promise((r) => setTimeout(r, 25))
  ) {
    try {
      trouble = undefined;
      if (await condition()) return;
    } catch (error) {
      trouble = error;
    }
  }
  throw new Error(`${what} did not come about within ${timeoutMs} ms`, { cause: trouble });
}

function first<Value>(values: readonly Value[]): Value {
  const [value] = values;
  if (value === undefined) throw new Error('the stack has none');
  return value;
}
