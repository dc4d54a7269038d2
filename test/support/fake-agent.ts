import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { agentErrorStatus, type AgentErrorCode, type AgentUsage } from '@cairn/agent';
import { serialOf } from '@cairn/domain';

/** What a test may do instead of a verb: refuse it, or something of its own before it is done. */
export type Interception = AgentErrorCode | undefined;

/** A node agent with volumes and exports in memory, that a test can make refuse or wait. */
export class FakeAgent {
  readonly volumes = new Map<string, number>();
  /** The generation and the attachment that each volume is exported for. */
  readonly exports = new Map<string, { generation: number; attachmentId: string }>();
  /** The volume that each snapshot is of; undefined when it was written from blocks. */
  readonly snapshots = new Map<string, string | undefined>();
  /** Snapshots that are being written from blocks, with how far they are. */
  readonly writing = new Map<string, number | undefined>();
  /** What they were asked to be. */
  readonly writingRequests: object[] = [];
  /** Ids of snapshots that it does not understand. */
  broken: string[] = [];
  usage: AgentUsage = { usage: [] };
  /** Called before each verb, as `PUT /v1/volumes/vol-…/export`; what it returns is answered instead. */
  before: (verb: string) => Promise<Interception> | Interception = () => undefined;

  private constructor(private readonly server = createServer()) {}

  static async start(): Promise<FakeAgent> {
    const agent = new FakeAgent();
    agent.server.on('request', (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        void agent.answer(`${request.method} ${request.url}`, Buffer.concat(chunks).toString(), response);
      });
    });
    agent.server.listen(0, '127.0.0.1');
    await once(agent.server, 'listening');
    return agent;
  }

  get url(): string {
    const address = this.server.address();
    if (address === null || typeof address === 'string') throw new Error('The agent does not listen.');
    return `http://127.0.0.1:${address.port}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  private async answer(verb: string, body: string, response: ServerResponse): Promise<void> {
    const refusal = await this.before(verb);
    const [status, document] =
      refusal === undefined
        ? [200, this.perform(verb, body)]
        : [agentErrorStatus[refusal], { code: refusal, message: `refused: ${refusal}` }];
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(document));
  }

  private perform(verb: string, body: string): object {
    if (verb === 'GET /v1/usage') return this.usage;
    if (verb.includes(' /v1/snapshots')) return this.performSnapshots(verb, body);
    const [method, id = '', isExport] =
      /^(\w+) \/v1\/volumes\/([^/?]+)(\/export)?/.exec(verb)?.slice(1) ?? [];
    if (method === 'DELETE') {
      if (isExport === undefined) this.volumes.delete(id);
      else this.exports.delete(id);
      return {};
    }
    const request = JSON.parse(body);
    if (isExport === undefined) {
      this.volumes.set(id, request.sizeBytes);
      return {
        id,
        sizeBytes: request.sizeBytes,
        allocatedBytes: 0,
        createdAt: new Date().toISOString(),
      };
    }
    const { attachmentId, generation, readOnly, numQueues } = request;
    this.exports.set(id, { generation, attachmentId });
    const connection = {
      type: 'vhost-user-blk',
      socketPath: `/run/${id}.sock`,
      serial: serialOf(id),
      numQueues,
    };
    return { volumeId: id, attachmentId, generation, readOnly, state: 'listening', connection };
  }

  private performSnapshots(verb: string, body: string): object {
    const [, id = '', what] = /^PUT \/v1\/snapshots\/([^/]+)\/(\w+)$/.exec(verb) ?? [];
    if (what === 'writing') {
      this.writingRequests.push({ id, ...JSON.parse(body) });
      this.writing.set(id, undefined);
      return {};
    }
    if (what === 'completion') {
      this.writing.delete(id);
      this.snapshots.set(id, undefined);
      return { id, sizeBytes: 4096 };
    }
    if (verb.startsWith('PUT')) {
      const { snapshots } = JSON.parse(body);
      for (const { snapshotId, volumeId } of snapshots) this.snapshots.set(snapshotId, volumeId);
    }
    if (verb.startsWith('DELETE')) {
      const gone = verb.slice('DELETE /v1/snapshots/'.length);
      this.snapshots.delete(gone);
      this.writing.delete(gone);
    }
    return {
      writing: [...this.writing].map(([each, percent]) => ({ id: each, percent })),
      broken: this.broken.map((id) => ({ id })),
      snapshots: [...this.snapshots].map(([each, volumeId]) => ({ id: each, volumeId, sizeBytes: 4096 })),
    };
  }
}
