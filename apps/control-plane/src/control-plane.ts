import type { FaultPoints } from '@cairn/domain';
import { chooseQueueBackend, OperationNudger } from '@cairn/jobs';
import { Database } from '@cairn/persistence';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { Server } from 'node:http';
import { AppModule } from './app.module.js';
import { DEFAULT_PROJECT, ensureKey } from './bootstrap.js';
import type { ControlPlaneConfig } from './config.js';
import { BODY_LIMIT, requireJson } from './http/body.js';
import { requestContext, RequestLogger } from './http/request-context.js';
import { serveOpenApi } from './openapi.js';

/** A control plane that serves. */
export interface RunningControlPlane {
  url: string;
  /** Lets requests under way end (ten seconds at most), then closes everything. */
  stop(): Promise<void>;
}

const REQUEST_TIMEOUT_MS = 30_000;
const DRAIN_TIMEOUT_MS = 10_000;
const DRAIN_STEP_MS = 50;
const BROKEN_CONNECTION_QUIET_MS = 5_000;

/** Opens database and queue, migrates, and serves the API. Throws when the database stays away or the port is taken. */
export async function startControlPlane(
  config: ControlPlaneConfig,
  version: string,
  faultPoints: FaultPoints,
): Promise<RunningControlPlane> {
  const nestLogger = new RequestLogger(config.log);
  Logger.overrideLogger(nestLogger);
  const logger = new Logger('control-plane');

  const database = await openDatabase(config, logger);
  const nudger = new OperationNudger(chooseQueueBackend({ ...config, prefix: config.queuePrefix }), logger);
  try {
    if (config.bootstrapApiKey !== undefined) {
      await ensureKey(database.unitOfWork, DEFAULT_PROJECT, config.bootstrapApiKey);
    }
    const module = AppModule.over({ database, nudger, joinToken: config.joinToken, faultPoints });
    const app = await NestFactory.create<NestExpressApplication>(module, {
      logger: nestLogger,
      bodyParser: false,
      abortOnError: false,
    });
    app.disable('x-powered-by');
    app.set('etag', false);
    app.use(requestContext(new Logger('http')), requireJson);
    app.useBodyParser('json', { limit: BODY_LIMIT });
    serveOpenApi(app, version);
    const server: Server = app.getHttpServer();
    server.requestTimeout = REQUEST_TIMEOUT_MS;
    // Opens the queue now, so that the first request need not; if it is away, the first nudge says so.
    void nudger.ping().catch(() => undefined);
    await app.listen(config.port, config.host);
    const stop = async () => {
      await drain(server, app);
      await nudger.close();
      await database.close();
    };
    return { url: await app.getUrl(), stop };
  } catch (error) {
    await nudger.close();
    await database.close();
    throw error;
  }
}

async function openDatabase(config: ControlPlaneConfig, logger: Logger): Promise<Database> {
  let told = false;
  let toldBrokenAt = 0;
  return Database.open(
    {
      url: config.databaseUrl,
      applicationName: 'cairn-control-plane',
      onIdleError: (error) => {
        // They break all at once when the database goes; one line says it.
        if (Date.now() - toldBrokenAt > BROKEN_CONNECTION_QUIET_MS) {
          logger.warn(`Database connections broke: ${error.message}`);
        }
        toldBrokenAt = Date.now();
      },
    },
    {
      timeoutMs: config.databaseWaitMs,
      onRetry: (error) => {
        if (!told)
          logger.warn(`Waiting for the database: ${error instanceof Error ? error.message : String(error)}`);
        told = true;
      },
    },
  );
}

/** Takes no new connection, lets answers finish, closes connections as they fall idle, and cuts what is left. */
async function drain(server: Server, app: NestExpressApplication): Promise<void> {
  const idle = setInterval(() => server.closeIdleConnections(), DRAIN_STEP_MS);
  const late = setTimeout(() => server.closeAllConnections(), DRAIN_TIMEOUT_MS);
  try {
    await app.close();
  } finally {
    clearInterval(idle);
    clearTimeout(late);
  }
}
