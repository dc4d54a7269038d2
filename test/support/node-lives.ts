import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentClient } from '@cairn/agent';
import { newId, type VolumeId } from '@cairn/domain';
import { AppProcess } from './app-process.js';
import { freePort } from './databases.js';

/** A volume that the node exports. */
export interface LivingExport {
  id: VolumeId;
  socketPath: string;
  filePath: string;
}

/**
 * Data planes of one node, one after the other, with nothing else around them. Always `stop` it: it takes the processes
 * and the files away.
 */
export class NodeLives {
  readonly agent: AgentClient;
  /** The processes that were started, the last one first. */
  readonly lives: AppProcess[] = [];

  private constructor(
    readonly directory: string,
    private readonly env: Readonly<Record<string, string>>,
    token: string,
    port: number,
  ) {
    this.agent = new AgentClient({ baseUrl: `http://127.0.0.1:${port}`, token, timeoutMs: 20_000 });
  }

  static async start(more: Readonly<Record<string, string>> = {}): Promise<NodeLives> {
    const directory = await mkdtemp(join(tmpdir(), 'cairn-'));
    const port = await freePort();
    const token = randomBytes(16).toString('hex');
    const env = {
      CAIRN_AGENT_PORT: String(port),
      CAIRN_AGENT_TOKEN: token,
      CAIRN_NODE_NAME: 'test-node',
      CAIRN_POOL_DIR: join(directory, 'pool'),
      CAIRN_SOCKET_DIR: join(directory, 'sock'),
      CAIRN_STATE_DIR: join(directory, 'state'),
      ...more,
    };
    const node = new NodeLives(directory, env, token, port);
    try {
      await node.startAnother();
      return node;
    } catch (error) {
      await node.stop();
      throw error;
    }
  }

  /** The process that was started last. */
  get dataPlane(): AppProcess {
    return this.lives[0]!;
  }

  get log(): string {
    return this.lives.map(({ log }) => log).join('----\n');
  }

  /** One that is not started yet. */
  another(more: Readonly<Record<string, string>> = {}): AppProcess {
    const process = new AppProcess('data-plane', { ...this.env, ...more });
    this.lives.unshift(process);
    return process;
  }

  /** Starts one more, beside one that may run; resolves when it is ready. */
  async startAnother(more: Readonly<Record<string, string>> = {}): Promise<AppProcess> {
    const process = this.another(more);
    await process.start();
    return process;
  }

  async addExport(sizeBytes: number, numQueues = 1): Promise<LivingExport> {
    const id = newId('vol');
    await this.agent.putVolume(id, { sizeBytes });
    const { connection } = await this.agent.putExport(id, {
      attachmentId: newId('att'),
      generation: 1,
      readOnly: false,
      numQueues,
    });
    const layers = join(this.directory, 'pool', 'layers');
    return { id, socketPath: connection.socketPath, filePath: join(layers, await this.newestFile(layers)) };
  }

  async stop(): Promise<void> {
    for (const life of this.lives) await life.kill();
    await rm(this.directory, { recursive: true, force: true });
  }

  private readonly files = new Set<string>();

  /** The file of the volume that was made last. */
  private async newestFile(directory: string): Promise<string> {
    const names = (await readdir(directory)).filter((name) => name.endsWith('.img') && !this.files.has(name));
    if (names.length !== 1) throw new Error(`${names.length} files are new in ${directory}`);
    this.files.add(names[0]!);
    return names[0]!;
  }
}
