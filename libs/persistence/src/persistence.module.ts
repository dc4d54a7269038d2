import { Logger, Module, type DynamicModule } from '@nestjs/common';
import { getDataSourceToken, TypeOrmModule } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { openDataSource, type DatabaseOptions, type WaitOptions } from './data-source.js';
import { Database } from './database.js';
import { UnitOfWork } from './unit-of-work.js';

/** Which database an app works on, and how long it waits at start for one that does not answer yet. */
export interface PersistenceOptions extends Pick<DatabaseOptions, 'url' | 'applicationName' | 'poolSize'> {
  waitMs: number;
}

const BROKEN_CONNECTION_QUIET_MS = 5_000;

/**
 * Gives an app its `Database` and `UnitOfWork`, open and migrated before anything that needs them is made.
 *
 * The app fails to start when the database stays away. Nest closes the connections in its last step of
 * shutting down, when the HTTP server no longer serves anybody.
 */
@Module({})
export class PersistenceModule {
  /** Composes the module over one database. */
  static forRoot(options: PersistenceOptions): DynamicModule {
    const { waitMs, ...database } = options;
    const logged = logging(new Logger('database'));
    return {
      module: PersistenceModule,
      imports: [
        TypeOrmModule.forRootAsync({
          // The factory waits by itself, so a failure of it is final.
          useFactory: () => ({ toRetry: () => false }),
          dataSourceFactory: () =>
            openDataSource(
              { ...database, onIdleError: logged.onIdleError },
              { timeoutMs: waitMs, onRetry: logged.onRetry },
            ),
        }),
      ],
      providers: [
        {
          provide: Database,
          useFactory: (dataSource: DataSource) => new Database(dataSource),
          inject: [getDataSourceToken()],
        },
        { provide: UnitOfWork, useFactory: ({ unitOfWork }: Database) => unitOfWork, inject: [Database] },
      ],
      exports: [Database, UnitOfWork],
    };
  }
}

/** Says what happens to the connections, and says it once. */
function logging(
  logger: Logger,
): Required<Pick<DatabaseOptions, 'onIdleError'> & Pick<WaitOptions, 'onRetry'>> {
  let isWaiting = false;
  let brokenAt = 0;
  return {
    onIdleError: (error) => {
      // They break all at once when the database goes; one line says it.
      if (Date.now() - brokenAt > BROKEN_CONNECTION_QUIET_MS)
        logger.warn(`Connections broke: ${error.message}`);
      brokenAt = Date.now();
    },
    onRetry: (error) => {
      if (!isWaiting)
        logger.warn(`Waiting for the database: ${error instanceof Error ? error.message : String(error)}`);
      isWaiting = true;
    },
  };
}
