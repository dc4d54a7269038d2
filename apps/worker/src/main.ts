import 'reflect-metadata';
import { readFileSync } from 'node:fs';
import { Logger } from '@nestjs/common';
import { ConfigurationError, EXIT_CONFIGURATION } from '@cairn/domain';
import { readConfig } from './config.js';
import { startWorker } from './worker.js';

/** A stop that takes longer leaves the rest to the leases. */
const stopTimeoutMs = 20_000;

function exitFor(error: unknown): number {
  if (error instanceof ConfigurationError) {
    for (const { name, message } of error.faults) process.stderr.write(`worker: ${name} ${message}\n`);
    return EXIT_CONFIGURATION;
  }
  process.stderr.write(`worker: ${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
}

// Whoever reads the log may be gone first, as a supervisor that was killed; that must not stop an orderly end.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

try {
  const running = await startWorker(readConfig(process.env, (path) => readFileSync(path, 'utf8')));
  const stop = (signal: NodeJS.Signals): void => {
    new Logger('main').log(`${signal}: finishing what is under way`);
    setTimeout(() => process.exit(0), stopTimeoutMs).unref();
    running.stop().then(
      () => process.exit(0),
      (error: unknown) => process.exit(exitFor(error)),
    );
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  process.stdout.write(`ready ${JSON.stringify({ app: 'worker' })}\n`);
} catch (error) {
  process.exit(exitFor(error));
}
