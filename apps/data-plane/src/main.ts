import 'reflect-metadata';
import { readFileSync } from 'node:fs';
import { Logger } from '@nestjs/common';
import { ConfigurationError, EXIT_CONFIGURATION } from '@cairn/domain';
import { readConfig } from './config.js';
import { DataPlane } from './data-plane.js';
import { StartRefused } from './start-refused.js';

/** sysexits.h EX_SOFTWARE: the supervisor starts the process again. */
const failedExitCode = 70;

async function start(): Promise<DataPlane> {
  const config = readConfig(process.env, (path) => readFileSync(path, 'utf8'));
  return DataPlane.start(config, process.env['npm_package_version'] ?? '0.1.0');
}

function exitFor(error: unknown): number {
  if (error instanceof ConfigurationError) {
    for (const { name, message } of error.faults) process.stderr.write(`data-plane: ${name} ${message}\n`);
    return EXIT_CONFIGURATION;
  }
  if (error instanceof StartRefused) {
    process.stderr.write(
      `data-plane: refused to start: ${error.reason}\ndata-plane: remedy: ${error.remedy}\n`,
    );
    return EXIT_CONFIGURATION;
  }
  process.stderr.write(`data-plane: ${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
}

// Whoever reads the log may be gone first, as a supervisor that was killed; that must not stop an orderly end.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

try {
  const running = await start();
  const logger = new Logger('main');
  void running.failed.then((error) => {
    logger.error(`the reactor died: ${error.message}`, error.stack);
    process.exit(failedExitCode);
  });
  void running.handedOver.then(() => process.exit(0));
  const hurry = new AbortController();
  let stopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    if (signal === 'SIGINT' || stopping) hurry.abort();
    if (stopping) return;
    stopping = true;
    logger.log(`${signal}: stopping`);
    running.stop(hurry.signal).then(
      () => process.exit(0),
      (error: unknown) => process.exit(exitFor(error)),
    );
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.stdout.write(`ready ${JSON.stringify({ app: 'data-plane', url: running.url })}\n`);
} catch (error) {
  process.exit(exitFor(error));
}
