import type { FaultPoints } from '@cairn/domain';
import { chooseQueueBackend, OperationNudger } from '@cairn/jobs';
import { UnitOfWork } from '@cairn/persistence';
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

/** Opens database and queue, migrates, and serves the API. Throws when the database stays away or the port is taken. */
export async function startControlPlane(
  config: ControlPlaneConfig,
  version: string,
  faultPoints: FaultPoints,
): Promise<RunningControlPlane> {
  const nestLogger = new RequestLogger(config.log);
  Logger.overrideLogger(nestLogger);
  const logger = new Logger('control-plane');

  const nudger = new OperationNudger(chooseQueueBackend({ ...config, prefix: config.queuePrefix }), logger);
  const module = AppModule.over({
    database: {
      url: config.databaseUrl,
      applicationName: 'cairn-control-plane',
      waitMs: config.databaseWaitMs,
    },
    nudger,
    joinToken: config.joinToken,
    faultPoints,
  });
  const app = await NestFactory.create<NestExpressApplication>(module, {
    logger: nestLogger,
    bodyParser: false,
    abortOnError: false,
  });
  try {
    if (config.bootstrapApiKey !== undefined) {
      await ensureKey(app.get(UnitOfWork), DEFAULT_PROJECT, config.bootstrapApiKey);
    }
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
    };
    return { url: await app.getUrl(), stop };
  } catch (error) {
    await app.close();
    await nudger.close();
    throw error;
  }
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
