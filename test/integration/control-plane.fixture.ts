import {
  newId,
  noFaultPoints,
  type FaultPoints,
  type NodeId,
  type Operation,
  type PoolId,
} from '@cairn/domain';
import { OperationConsumer, type QueueBackend } from '@cairn/jobs';
import { Database } from '@cairn/persistence';
import { createKey } from '../../apps/control-plane/src/bootstrap.js';
import type { ControlPlaneConfig } from '../../apps/control-plane/src/config.js';
import { startControlPlane, type RunningControlPlane } from '../../apps/control-plane/src/control-plane.js';
import { newApiKey } from '../../apps/control-plane/src/http/api-key.js';
import { startPostgres, startRedis, type TestPostgres, type TestRedis } from '../support/databases.js';

export const queueKinds = ['redis', 'postgres'] as const;
export type QueueKind = (typeof queueKinds)[number];

/** An answer of the API. */
export interface Answer {
  status: number;
  headers: Headers;
  // The tests look into many shapes; each says itself what it expects.
  body: any;
}

/** What a request may carry. */
export interface RequestOptions {
  body?: unknown;
  rawBody?: string;
  headers?: Record<string, string>;
  /** `null` sends none. */
  key?: string | null;
}

/** A control plane in this process over real databases, two projects' keys, and the hand of a worker. */
export class ControlPlaneFixture {
  readonly joinToken = 'join-token';
  readonly key = newApiKey();
  otherKey = '';
  /** Where volumes are placed. */
  place: { nodeId: NodeId; poolId: PoolId } = { nodeId: newId('node'), poolId: newId('pool') };

  private constructor(
    readonly postgres: TestPostgres,
    readonly redis: TestRedis | undefined,
    readonly databaseUrl: string,
    readonly database: Database,
    private running: RunningControlPlane | undefined,
  ) {}

  static async start(
    queue: QueueKind,
    faultPoints: FaultPoints = noFaultPoints,
  ): Promise<ControlPlaneFixture> {
    const [postgres, redis] = await Promise.all([
      startPostgres(),
      queue === 'redis' ? startRedis() : undefined,
    ]);
    const databaseUrl = await postgres.createDatabase();
    const database = await Database.open({ url: databaseUrl, applicationName: 'test' });
    const fixture = new ControlPlaneFixture(postgres, redis, databaseUrl, database, undefined);
    fixture.otherKey = await createKey(database.unitOfWork, 'other');
    await fixture.startServer(faultPoints);
    return fixture;
  }

  private async startServer(faultPoints: FaultPoints): Promise<void> {
    const config: ControlPlaneConfig = {
      databaseUrl: this.databaseUrl,
      databaseWaitMs: 10_000,
      redisUrl: this.redis?.url,
      queuePrefix: 'cairn',
      host: '127.0.0.1',
      port: 0,
      joinToken: this.joinToken,
      bootstrapApiKey: this.key,
      log: 'text',
    };
    this.running = await startControlPlane(config, 'test', faultPoints);
  }

  get queueBackend(): QueueBackend {
    return this.redis
      ? { kind: 'redis', url: this.redis.url, prefix: 'cairn' }
      : { kind: 'postgres', connectionString: this.databaseUrl, prefix: 'cairn' };
  }

  get url(): string {
    if (!this.running) throw new Error('The control plane is not running.');
    return this.running.url;
  }

  async request(method: string, path: string, options: RequestOptions = {}): Promise<Answer> {
    const headers: Record<string, string> = { ...options.headers };
    if (options.key !== null) headers['authorization'] ??= `Bearer ${options.key ?? this.key}`;
    const body = options.rawBody ?? (options.body === undefined ? undefined : JSON.stringify(options.body));
    if (body !== undefined) headers['content-type'] ??= 'application/json';
    const response = await fetch(new URL(path, this.url), { method, headers, body });
    const text = await response.text();
    const isJson = /json/.test(response.headers.get('content-type') ?? '');
    return { status: response.status, headers: response.headers, body: isJson ? JSON.parse(text) : text };
  }

  /** Creates a volume through the API and, as a worker would, makes it available. */
  async availableVolume(sizeBytes = 1 << 20): Promise<string> {
    const { body } = await this.request('POST', '/v1/volumes', { body: { sizeBytes } });
    await this.finish(body.operation.id);
    return body.volume.id;
  }

  /** Attaches the volume and, as a worker would, completes it. */
  async attached(volumeId: string): Promise<string> {
    const { body } = await this.request('POST', `/v1/volumes/${volumeId}/attachments`, { body: {} });
    await this.finish(body.operation.id);
    return body.attachment.id;
  }

  /** Plays the worker: claims the operation and completes it with its effect on the rows. */
  async finish(operationId: Operation['id']): Promise<void> {
    const { unitOfWork } = this.database;
    const claimed = await unitOfWork.read(({ operations }) =>
      operations.claim(operationId, { workerId: 'test', leaseMs: 10_000 }),
    );
    if (!claimed) throw new Error(`${operationId} cannot be claimed`);
    await unitOfWork.run(async ({ operations, volumes, attachments, snapshots }) => {
      const { volumeId, attachmentId, snapshotId } = claimed.target;
      if (claimed.kind === 'start-snapshot' || claimed.kind === 'complete-snapshot') {
        const [snapshot] = await snapshots.listById([claimed.target.snapshotId]);
        if (!snapshot) throw new Error('no snapshot');
        if (claimed.kind === 'complete-snapshot') {
          await snapshots.transition(snapshot, 'completed');
        } else {
          await snapshots.moveWriting(snapshot, 'started');
          await snapshots.place(snapshot.id, this.place);
        }
        await operations.succeed(claimed);
        return;
      }
      if (claimed.kind === 'create-snapshot' || claimed.kind === 'delete-snapshot') {
        const ids = claimed.kind === 'create-snapshot' ? claimed.params.snapshotIds : [snapshotId!];
        const event = claimed.kind === 'create-snapshot' ? 'completed' : 'removed';
        for (const each of await snapshots.listById(ids)) await snapshots.transition(each, event);
        await operations.succeed(claimed);
        return;
      }
      const volume = volumeId && (await volumes.findById(volumeId));
      const attachment = attachmentId && (await attachments.findById(attachmentId));
      if (!volume) throw new Error('no volume');
      if (claimed.kind === 'create-volume') {
        await volumes.transition(volume, 'created');
        await volumes.place(volume.id, this.place);
      }
      if (claimed.kind === 'resize-volume')
        await volumes.endModification(volume, 'completed', claimed.params);
      if (claimed.kind === 'revert-volume') await volumes.endModification(volume, 'completed');
      if (claimed.kind === 'delete-volume') await volumes.transition(volume, 'removed');
      if (claimed.kind === 'attach-volume' && attachment) {
        const connection = {
          type: 'vhost-user-blk',
          socketPath: '/s',
          serial: volume.id,
          numQueues: 1,
        } as const;
        await attachments.transition(attachment, 'attached', { nodeId: newId('node'), connection });
      }
      if (claimed.kind === 'detach-volume' && attachment) {
        await attachments.transition(attachment, 'detached', { connection: null });
        await volumes.transition(volume, 'detached');
      }
      await operations.succeed(claimed);
    });
  }

  /** Fails an operation of an attach, as a worker would. */
  async failAttach(operationId: Operation['id']): Promise<void> {
    const { unitOfWork } = this.database;
    const claimed = await unitOfWork.read(({ operations }) =>
      operations.claim(operationId, { workerId: 'test', leaseMs: 10_000 }),
    );
    const reason = { code: 'no-capacity', message: 'No room.' } as const;
    await unitOfWork.run(async ({ operations, volumes, attachments }) => {
      const volume = await volumes.findById(claimed!.target.volumeId!);
      const attachment = await attachments.findById(claimed!.target.attachmentId!);
      await attachments.transition(attachment!, 'failed', { reason });
      await volumes.transition(volume!, 'detached');
      await operations.fail(claimed!, reason);
    });
  }

  /** Takes nudges until the returned consumer is closed. */
  consume(seen: string[]): OperationConsumer {
    return OperationConsumer.start(this.queueBackend, {
      concurrency: 4,
      onError: () => undefined,
      process: async (id) => void seen.push(id),
    });
  }

  async stop(): Promise<void> {
    await this.running?.stop();
    await this.database.close();
    await Promise.all([this.postgres.stop(), this.redis?.stop()]);
  }
}

/** Waits until it holds, or throws. */
export async function eventually(
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 10_000,
): Promise<void> {
  for (const end = Date.now() + timeoutMs; !(await condition());) {
    if (Date.now() > end) throw new Error('It did not come true in time.');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
