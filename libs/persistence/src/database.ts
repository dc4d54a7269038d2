import { DataSource } from 'typeorm';
import { dataSourceOptions, type DatabaseOptions } from './data-source.js';
import { migrate } from './migrate.js';
import { UnitOfWork } from './unit-of-work.js';

const PING_TIMEOUT_MS = 2_000;
const WAIT_STEP_MS = 500;

/** How long and how loudly to wait for a database that is not up yet. */
export interface WaitOptions {
  timeoutMs: number;
  onRetry?: (error: unknown) => void;
}

/** An open database whose schema is up to date. */
export class Database {
  readonly unitOfWork: UnitOfWork;

  private constructor(private readonly dataSource: DataSource) {
    this.unitOfWork = new UnitOfWork(dataSource);
  }

  /**
   * Connects, waiting for a server that still starts, and migrates.
   *
   * Throws the last connection error when the server does not come up in time, and at once when a migration fails.
   */
  static async open(options: DatabaseOptions, wait: WaitOptions = { timeoutMs: 60_000 }): Promise<Database> {
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
        return new Database(dataSource);
      } catch (error) {
        await dataSource.destroy().catch(() => undefined);
        throw error;
      }
    }
  }

  /** Throws when the database does not answer within two seconds. */
  async ping(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error('no answer in time')), PING_TIMEOUT_MS);
    });
    try {
      await Promise.race([this.dataSource.query('SELECT 1'), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Closes every connection. */
  async close(): Promise<void> {
    if (this.dataSource.isInitialized) await this.dataSource.destroy();
  }
}
