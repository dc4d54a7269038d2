import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { databaseUnavailable, isSerializationFailure, translateDatabaseError } from './database-errors.js';
import { AttachmentRepository } from './repositories/attachment.repository.js';
import { NodeRepository } from './repositories/node.repository.js';
import { OperationRepository } from './repositories/operation.repository.js';
import { ProjectRepository } from './repositories/project.repository.js';
import { SnapshotRepository } from './repositories/snapshot.repository.js';
import { VolumeRepository } from './repositories/volume.repository.js';

/** All repositories over one connection or transaction. */
export interface Repositories {
  projects: ProjectRepository;
  nodes: NodeRepository;
  volumes: VolumeRepository;
  attachments: AttachmentRepository;
  snapshots: SnapshotRepository;
  operations: OperationRepository;
}

function repositoriesOf(manager: EntityManager): Repositories {
  return {
    projects: new ProjectRepository(manager),
    nodes: new NodeRepository(manager),
    volumes: new VolumeRepository(manager),
    attachments: new AttachmentRepository(manager),
    snapshots: new SnapshotRepository(manager),
    operations: new OperationRepository(manager),
  };
}

const TRANSACTION_TRIES = 3;

/** The only way to the rows: `run` for one transaction, `read` for single statements. */
export class UnitOfWork {
  constructor(private readonly dataSource: DataSource) {}

  /**
   * Runs the work in one transaction (READ COMMITTED): it commits when the work returns and is undone when it throws.
   *
   * The work may run again after a deadlock, so it must do nothing but use the repositories.
   * Throws `dependency-unavailable` when the database does; the commit may then have happened or not,
   * which a client token makes harmless to the caller.
   */
  async run<T>(work: (repositories: Repositories) => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.runOnce(work);
      } catch (error) {
        if (!isSerializationFailure(error) || tries === TRANSACTION_TRIES)
          throw translateDatabaseError(error);
      }
    }
  }

  /** Runs statements without a transaction. Throws `dependency-unavailable` when the database is. */
  async read<T>(work: (repositories: Repositories) => Promise<T>): Promise<T> {
    const runner = await this.connect();
    try {
      return await work(repositoriesOf(runner.manager));
    } catch (error) {
      throw translateDatabaseError(error);
    } finally {
      await release(runner);
    }
  }

  private async runOnce<T>(work: (repositories: Repositories) => Promise<T>): Promise<T> {
    const runner = await this.connect();
    try {
      await runner.startTransaction();
      const result = await work(repositoriesOf(runner.manager));
      await runner.commitTransaction();
      return result;
    } catch (error) {
      // A rollback that fails too means the connection is gone, and with it the transaction.
      if (runner.isTransactionActive) await runner.rollbackTransaction().catch(() => undefined);
      throw error;
    } finally {
      await release(runner);
    }
  }

  private async connect(): Promise<QueryRunner> {
    const runner = this.dataSource.createQueryRunner();
    try {
      await runner.connect();
      return runner;
    } catch (error) {
      await release(runner);
      throw databaseUnavailable(error);
    }
  }
}

async function release(runner: QueryRunner): Promise<void> {
  if (!runner.isReleased) await runner.release().catch(() => undefined);
}
