import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentClient, type PutVolume } from '@cairn/agent';
import { newId, type VolumeId } from '@cairn/domain';
import { AppProcess } from './app-process.js';
import { freePort } from './databases.js';

/** The agent token of every lone node. */
export const TOKEN = 'the token of a lone node';

/** A built data plane that reports to nobody, in a directory of its own. Always `stop` it. */
export class LoneNode {
  private constructor(
    readonly directory: string,
    readonly app: AppProcess,
    readonly agent: AgentClient,
    readonly agentUrl: string,
  ) {}

  static async start(env: Readonly<Record<string, string>> = {}): Promise<LoneNode> {
    // In the shortest place there is: a unix socket path has 107 bytes.
    const directory = await mkdtemp(join(tmpdir(), 'cairn-'));
    const port = await freePort();
    const app = new AppProcess('data-plane', {
      CAIRN_AGENT_PORT: String(port),
      CAIRN_AGENT_TOKEN: TOKEN,
      CAIRN_NODE_NAME: 'lone-node',
      CAIRN_POOL_DIR: join(directory, 'pool'),
      CAIRN_SOCKET_DIR: join(directory, 'sock'),
      CAIRN_STATE_DIR: join(directory, 'state'),
      ...env,
    });
    const agentUrl = `http://127.0.0.1:${port}`;
    const agent = new AgentClient({ baseUrl: agentUrl, token: TOKEN });
    const node = new LoneNode(directory, app, agent, agentUrl);
    try {
      await app.start();
      return node;
    } catch (error) {
      await node.stop();
      throw error;
    }
  }

  /** Makes a volume and exports it under generation 1; the socket that its guest connects to. */
  async attach(volumeId: VolumeId, { sizeBytes }: PutVolume): Promise<string> {
    await this.agent.putVolume(volumeId, { sizeBytes });
    const attachment = { attachmentId: newId('att'), generation: 1, readOnly: false, numQueues: 1 };
    return (await this.agent.putExport(volumeId, attachment)).connection.socketPath;
  }

  /** What a scrape of its metrics answers. */
  async metrics(): Promise<string> {
    const headers = { authorization: `Bearer ${TOKEN}` };
    const response = await fetch(`${this.agentUrl}/metrics`, { headers });
    if (!response.ok) throw new Error(`/metrics answered ${response.status}`);
    return response.text();
  }

  /** Ends the process and removes every file. */
  async stop(): Promise<void> {
    await this.app.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}
