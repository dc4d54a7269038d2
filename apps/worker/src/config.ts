import { EnvironmentReader } from '@cairn/domain';
import { DEFAULT_QUEUE_PREFIX, queuePrefixPattern } from '@cairn/jobs';

/** Everything the worker is started with, checked. */
export interface WorkerConfig {
  readonly databaseUrl: string;
  /** How long to wait at start for a database that does not answer yet. */
  readonly databaseWaitMs: number;
  /** Unset: BullMQ keeps its queue in the database. */
  readonly redisUrl?: string;
  readonly queuePrefix: string;
  readonly agentToken: string;
  readonly overcommitRatio: number;
  /** How many operations run at once. */
  readonly concurrency: number;
  /** How long a dead worker keeps its operations from the others. */
  readonly leaseMs: number;
  readonly sweepMs: number;
  readonly agentTimeoutMs: number;
  /** How often each node is compared with the rows. */
  readonly inventoryMs: number;
  readonly log: 'json' | 'text';
}

/** Reads the environment. Throws ConfigurationError with every fault. */
export function readConfig(
  env: Readonly<Record<string, string | undefined>>,
  readFile: (path: string) => string,
): WorkerConfig {
  const reader = new EnvironmentReader(env, readFile);
  const databaseUrl = reader.secret('DATABASE_URL', 'name the PostgreSQL database of the control plane');
  reader.checkUrl('DATABASE_URL', databaseUrl, ['postgres', 'postgresql']);
  const redisUrl = reader.findSecret('REDIS_URL');
  reader.checkUrl('REDIS_URL', redisUrl, ['redis', 'rediss']);
  const queuePrefix = reader.text('CAIRN_QUEUE_PREFIX', DEFAULT_QUEUE_PREFIX);
  if (!queuePrefixPattern.test(queuePrefix)) {
    reader.fault(
      'CAIRN_QUEUE_PREFIX',
      `is ${JSON.stringify(queuePrefix)}; it must match ${queuePrefixPattern.source}`,
    );
  }
  const config: WorkerConfig = {
    databaseUrl,
    databaseWaitMs: reader.integer('CAIRN_DATABASE_WAIT_SECONDS', 60, { min: 0, max: 3600 }) * 1000,
    ...(redisUrl === undefined ? {} : { redisUrl }),
    queuePrefix,
    agentToken: reader.secret(
      'CAIRN_AGENT_TOKEN',
      'give the data planes and the workers the same random text',
    ),
    overcommitRatio: reader.integer('CAIRN_OVERCOMMIT_RATIO', 10, { min: 1, max: 1000 }),
    concurrency: reader.integer('CAIRN_WORKER_CONCURRENCY', 8, { min: 1, max: 256 }),
    leaseMs: reader.integer('CAIRN_LEASE_MS', 15_000, { min: 500, max: 600_000 }),
    sweepMs: reader.integer('CAIRN_SWEEP_MS', 500, { min: 50, max: 60_000 }),
    agentTimeoutMs: reader.integer('CAIRN_AGENT_TIMEOUT_MS', 10_000, { min: 100, max: 120_000 }),
    inventoryMs: reader.integer('CAIRN_INVENTORY_MS', 30_000, { min: 50, max: 3_600_000 }),
    log: reader.oneOf('CAIRN_LOG', ['text', 'json'], 'text'),
  };
  reader.throwIfFaulty();
  return config;
}
