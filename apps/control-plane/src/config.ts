import { EnvironmentReader } from '@cairn/domain';
import { DEFAULT_QUEUE_PREFIX, queuePrefixPattern } from '@cairn/jobs';
import { parseApiKey } from './http/api-key.js';

/** Everything the control plane is started with, checked. */
export interface ControlPlaneConfig {
  readonly databaseUrl: string;
  /** How long to wait at start for a database that does not answer yet. */
  readonly databaseWaitMs: number;
  /** Unset: BullMQ keeps its queue in the database. */
  readonly redisUrl?: string;
  readonly queuePrefix: string;
  readonly host: string;
  readonly port: number;
  /** What a node shows to send heartbeats. */
  readonly joinToken: string;
  /** A key of the project `default` that is made to exist at every start. */
  readonly bootstrapApiKey?: string;
  readonly log: 'json' | 'text';
}

/** Reads the environment. Throws ConfigurationError with every fault. */
export function readConfig(
  env: Readonly<Record<string, string | undefined>>,
  readFile: (path: string) => string,
): ControlPlaneConfig {
  const reader = new EnvironmentReader(env, readFile);
  const { databaseUrl, databaseWaitMs } = readDatabaseConfig(reader);
  const redisUrl = reader.findSecret('REDIS_URL');
  reader.checkUrl('REDIS_URL', redisUrl, ['redis', 'rediss']);
  const queuePrefix = reader.text('CAIRN_QUEUE_PREFIX', DEFAULT_QUEUE_PREFIX);
  if (!queuePrefixPattern.test(queuePrefix)) {
    reader.fault(
      'CAIRN_QUEUE_PREFIX',
      `is ${JSON.stringify(queuePrefix)}; it must match ${queuePrefixPattern.source}`,
    );
  }
  const bootstrapApiKey = reader.findSecret('CAIRN_BOOTSTRAP_API_KEY');
  if (bootstrapApiKey !== undefined && parseApiKey(bootstrapApiKey) === undefined) {
    reader.fault(
      'CAIRN_BOOTSTRAP_API_KEY',
      'is not of the form cairn_<16 hex digits>_<43 base64url characters>',
    );
  }
  const config: ControlPlaneConfig = {
    databaseUrl,
    databaseWaitMs,
    redisUrl,
    queuePrefix,
    host: reader.text('CAIRN_HTTP_HOST', '127.0.0.1'),
    port: reader.integer('CAIRN_HTTP_PORT', 8700, { min: 0, max: 65_535 }),
    joinToken: reader.secret(
      'CAIRN_JOIN_TOKEN',
      'give the control plane and the data planes the same random text',
    ),
    bootstrapApiKey,
    log: reader.oneOf('CAIRN_LOG', ['text', 'json'], 'text'),
  };
  reader.throwIfFaulty();
  return config;
}

/** The part of the configuration that the key command needs too. Faults stay in the reader. */
export function readDatabaseConfig(reader: EnvironmentReader): {
  databaseUrl: string;
  databaseWaitMs: number;
} {
  const databaseUrl = reader.secret(
    'DATABASE_URL',
    'name a PostgreSQL database, as postgres://user:password@host/name',
  );
  reader.checkUrl('DATABASE_URL', databaseUrl, ['postgres', 'postgresql']);
  const seconds = reader.integer('CAIRN_DATABASE_WAIT_SECONDS', 60, { min: 0, max: 3600 });
  return { databaseUrl, databaseWaitMs: seconds * 1000 };
}
