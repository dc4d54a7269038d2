import { ConsoleLogger, Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Database, type DatabaseOptions } from '@cairn/persistence';
import { AppModule } from './app.module.js';
import type { WorkerConfig } from './config.js';
import { NodeMonitor } from './nodes/node.monitor.js';
import { OperationProcessor } from './operations/operation.processor.js';
import { OperationSweeper } from './operations/operation.sweeper.js';
import { Retention } from './operations/retention.js';

/** A worker that takes operations. */
export interface RunningWorker {
  /** Takes nothing more, waits for what is under way, and lets go of the database. */
  stop(): Promise<void>;
}

/** Opens the database (waiting for one that still starts) and starts everything. */
export async function startWorker(config: WorkerConfig): Promise<RunningWorker> {
  const logger = new ConsoleLogger({ json: config.log === 'json', colors: false, prefix: 'worker' });
  Logger.overrideLogger(logger);
  const options: DatabaseOptions = {
    url: config.databaseUrl,
    applicationName: 'cairn-worker',
    // One connection an operation, and some for the sweep, the renewals and the monitor.
    poolSize: config.concurrency + 4,
    onIdleError: (error) => logger.warn(`a database connection broke: ${error.message}`),
  };
  let isWaiting = false;
  const database = await Database.open(options, {
    timeoutMs: config.databaseWaitMs,
    onRetry: (error) => {
      if (!isWaiting)
        logger.warn(`waiting for the database: ${error instanceof Error ? error.message : String(error)}`);
      isWaiting = true;
    },
  });
  const app = await NestFactory.createApplicationContext(AppModule.of(config, database), {
    abortOnError: false,
    logger: ['error', 'warn'],
  });
  const parts = [
    app.get(OperationProcessor),
    app.get(OperationSweeper),
    app.get(NodeMonitor),
    app.get(Retention),
  ];
  for (const part of parts) part.start();
  return {
    stop: async () => {
      await Promise.all(parts.map((part) => part.stop()));
      await app.close();
      await database.close();
    },
  };
}
