import { ConsoleLogger, Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import type { WorkerConfig } from './config.js';
import { NodeInventory } from './nodes/node.inventory.js';
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
  const app = await NestFactory.createApplicationContext(AppModule.of(config), {
    abortOnError: false,
    logger: ['error', 'warn'],
  });
  // Nest tells about its own start at a level of its own; from here on we speak.
  logger.setLogLevels(['log', 'warn', 'error', 'fatal']);
  const parts = [
    app.get(OperationProcessor),
    app.get(OperationSweeper),
    app.get(NodeMonitor),
    app.get(NodeInventory),
    app.get(Retention),
  ];
  for (const part of parts) part.start();
  return {
    stop: async () => {
      await Promise.all(parts.map((part) => part.stop()));
      await app.close();
    },
  };
}
