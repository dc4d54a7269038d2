import { DataSource, type DataSourceOptions } from 'typeorm';
import { entities } from './entities/index.js';
import { migrate } from './migrate.js';
import { migrations } from './migrations/index.js';

/** How to reach the database. */
export interface DatabaseOptions {
  url: string;
  /** Shown in pg_stat_activity. */
  applicationName: string;
  poolSize?: number;
  /** Called when an idle connection breaks; the pool replaces it by itself. */
  onIdleError?: (error: Error) => void;
}

/** How long and how loudly to wait for a database that is not up yet. */
export interface WaitOptions {
  timeoutMs: number;
  onRetry?: (error: unknown) => void;
}

const WAIT_STEP_MS = 500;
const CONNECT_TIMEOUT_MS = 3_000;
const LOCK_TIMEOUT_MS = 5_000;
const STATEMENT_TIMEOUT_MS = 10_000;
// Past the server's own timeout: only reached when the server or the network no longer answers at all.
const QUERY_TIMEOUT_MS = 12_000;
const IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000;

/** TypeORM options for our schema. Every wait is bounded, so a database that hangs becomes an error and not a hung request. */
export function dataSourceOptions(options: DatabaseOptions): DataSourceOptions {
  return {
    type: 'postgres',
    url: options.url,
    applicationName: options.applicationName,
    entities,
    migrations,
    migrationsTableName: 'cairn_migrations',
    synchronize: false,
    migrationsRun: false,
    installExtensions: false,
    logging: false,
    poolErrorHandler: (error: Error) => options.onIdleError?.(error),
    poolSize: options.poolSize ?? 10,
    extra: {
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      lock_timeout: LOCK_TIMEOUT_MS,
      statement_timeout: STATEMENT_TIMEOUT_MS,
      query_timeout: QUERY_TIMEOUT_MS,
      idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_TIMEOUT_MS,
      keepAlive: true,
    },
  };
}

/**
 * Connects, waiting for a server that still starts, and migrates.
 *
 * Throws the last connection error when the server does not come up in time, and at once when a migration fails.
 */
export async function openDataSource(options: DatabaseOptions, wait: WaitOptions): Promise<DataSource> {
  const until = Date.now() + wait.timeoutMs;
  for (;;) {
    const dataSource = new DataSource(dataSourceOptions(options));
    try {
      await dataSource.initialize();
    } catch (error) {
      if (Date.now() >= until) throw error;
      wait.onRetry?.(error);
      await new Promise((resolve) => setTimeout(resolve, WAIT_STEP_MS));
      continue;
    }
    try {
      await migrate(dataSource);
      return dataSource;
    } catch (error) {
      await dataSource.destroy().catch(() => undefined);
      throw error;
    }
  }
}
