import 'reflect-metadata';
import { readFileSync } from 'node:fs';
import { armFaultPoints, ConfigurationError, EXIT_CONFIGURATION } from '@cairn/domain';
import { Logger } from '@nestjs/common';
import { readConfig } from './config.js';
import { startControlPlane, type RunningControlPlane } from './control-plane.js';

const version = process.env['npm_package_version'] ?? '0.1.0';

async function start(): Promise<RunningControlPlane> {
  const config = readConfig(process.env, (path) => readFileSync(path, 'utf8'));
  const faultPoints = armFaultPoints(process.env, () => process.kill(process.pid, 'SIGKILL'));
  return startControlPlane(config, version, faultPoints);
}

function exitFor(error: unknown): number {
  if (error instanceof ConfigurationError) {
    for (const { name, message } of error.faults) process.stderr.write(`control-plane: ${name} ${message}\n`);
    return EXIT_CONFIGURATION;
  }
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'EADDRINUSE') {
    process.stderr.write(
      `control-plane: ${String(error)}. Stop what uses the port, or set CAIRN_HTTP_PORT.\n`,
    );
    return EXIT_CONFIGURATION;
  }
  process.stderr.write(`control-plane: ${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
}

// Whoever reads the log may be gone first, as a supervisor that was killed; that must not stop an orderly end.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

try {
  const running = await start();
  const logger = new Logger('main');
  const stop = (signal: NodeJS.Signals): void => {
    logger.log(`${signal}: draining`);
    running.stop().then(
      () => process.exit(0),
      (error: unknown) => process.exit(exitFor(error)),
    );
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  process.stdout.write(`ready ${JSON.stringify({ app: 'control-plane', url: running.url })}\n`);
} catch (error) {
  process.exit(exitFor(error));
}
