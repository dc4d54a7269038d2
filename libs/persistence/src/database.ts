import type { DataSource } from 'typeorm';
import { openDataSource, type DatabaseOptions, type WaitOptions } from './data-source.js';
import { UnitOfWork } from './unit-of-work.js';

const PING_TIMEOUT_MS = 2_000;

/** An open database whose schema is up to date. */
export class Database {
  readonly unitOfWork: UnitOfWork;

  constructor(private readonly dataSource: DataSource) {
    this.unitOfWork = new UnitOfWork(dataSource);
  }

  /** Opens it outside an app (PersistenceModule does it inside one): see `openDataSource`. Whoever opens it closes it. */
  static async open(options: DatabaseOptions, wait: WaitOptions = { timeoutMs: 60_000 }): Promise<Database> {
    return new Database(await openDataSource(options, wait));
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
