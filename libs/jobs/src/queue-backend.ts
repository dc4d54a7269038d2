import { Queue, Worker, createPostgresBackend, type Job } from 'bullmq';
import { Redis } from 'ioredis';
import { queues } from './queues.js';

/** Where the queue lives: Redis when there is one, else a schema of its own in the PostgreSQL database. */
export type QueueBackend =
  | { kind: 'redis'; url: string; prefix: string }
  | { kind: 'postgres'; connectionString: string; prefix: string };

/** What a queue prefix may be: it becomes a Redis key prefix or a PostgreSQL schema name. */
export const queuePrefixPattern = /^[a-z][a-z0-9_]{0,30}$/;
export const DEFAULT_QUEUE_PREFIX = 'cairn';

/** Chooses the back-end from what was configured. */
export function chooseQueueBackend(settings: {
  redisUrl?: string;
  databaseUrl: string;
  prefix?: string;
}): QueueBackend {
  const prefix = settings.prefix ?? DEFAULT_QUEUE_PREFIX;
  return settings.redisUrl === undefined
    ? { kind: 'postgres', connectionString: settings.databaseUrl, prefix }
    : { kind: 'redis', url: settings.redisUrl, prefix };
}

/** An open producer or consumer and how to close it with its connections. */
export interface Opened<T> {
  instance: T;
  close: () => Promise<void>;
}

const PRODUCER_CONNECTIONS = 3;
const CONSUMER_CONNECTIONS = 5;
const CONNECT_TIMEOUT_MS = 3_000;
const RECONNECT_MAX_MS = 2_000;

function postgresConnection(backend: QueueBackend & { kind: 'postgres' }, max: number) {
  return {
    connectionString: backend.connectionString,
    schema: `${backend.prefix}_queue`,
    migrate: true,
    max,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  };
}

function redisConnection(backend: QueueBackend & { kind: 'redis' }, options: { blocking: boolean }): Redis {
  const redis = new Redis(backend.url, {
    connectTimeout: CONNECT_TIMEOUT_MS,
    retryStrategy: (times) => Math.min(times * 100, RECONNECT_MAX_MS),
    // A consumer waits for Redis to come back; a producer must say at once that it is away.
    maxRetriesPerRequest: options.blocking ? null : 1,
    enableOfflineQueue: options.blocking,
  });
  // Without a listener ioredis prints every failed reconnect; the users of the connection report it themselves.
  redis.on('error', () => undefined);
  return redis;
}

/** Opens the producing side of the operations queue. */
export function openOperationQueue(backend: QueueBackend, onError: (error: Error) => void): Opened<Queue> {
  const { name, jobOptions } = queues.operations;
  if (backend.kind === 'postgres') {
    const connection = postgresConnection(backend, PRODUCER_CONNECTIONS);
    const queue = new Queue(name, { connection, defaultJobOptions: jobOptions }, createPostgresBackend);
    queue.on('error', onError);
    // The operations are the same whatever the back-end; only its own type parameter differs.
    return { instance: queue as unknown as Queue, close: () => queue.close() };
  }
  const redis = redisConnection(backend, { blocking: false });
  const queue = new Queue(name, { connection: redis, prefix: backend.prefix, defaultJobOptions: jobOptions });
  queue.on('error', onError);
  return {
    instance: queue,
    close: async () => {
      await queue.close().catch(() => undefined);
      redis.disconnect();
    },
  };
}

/** What the consuming side does with a job. */
export interface ConsumerOptions {
  concurrency: number;
  process: (job: Job) => Promise<void>;
  onError: (error: Error) => void;
}

// BullMQ's own lock only avoids double delivery; the lease on the row is what guards the operation.
const LOCK_DURATION_MS = 30_000;
const STALLED_INTERVAL_MS = 15_000;
const MAX_STALLED = 100;

/** Opens the consuming side of the operations queue; it works until closed. */
export function openOperationConsumer(backend: QueueBackend, options: ConsumerOptions): Opened<Worker> {
  const { name } = queues.operations;
  const common = {
    concurrency: options.concurrency,
    lockDuration: LOCK_DURATION_MS,
    stalledInterval: STALLED_INTERVAL_MS,
    maxStalledCount: MAX_STALLED,
    runRetryDelay: RECONNECT_MAX_MS,
  };
  if (backend.kind === 'postgres') {
    const connection = postgresConnection(backend, CONSUMER_CONNECTIONS);
    const worker = new Worker(name, options.process, { ...common, connection }, createPostgresBackend);
    worker.on('error', options.onError);
    return { instance: worker as unknown as Worker, close: () => worker.close() };
  }
  const redis = redisConnection(backend, { blocking: true });
  const worker = new Worker(name, options.process, { ...common, connection: redis, prefix: backend.prefix });
  worker.on('error', options.onError);
  return {
    instance: worker,
    close: async () => {
      await worker.close();
      redis.disconnect();
    },
  };
}
