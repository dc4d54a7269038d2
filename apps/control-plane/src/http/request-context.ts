import { AsyncLocalStorage } from 'node:async_hooks';
import { newId } from '@cairn/domain';
import { ConsoleLogger, Logger, type LogLevel } from '@nestjs/common';
import type { NextFunction, Request, Response } from 'express';

const requestIds = new AsyncLocalStorage<string>();
const acceptable = /^[A-Za-z0-9._-]{1,64}$/;

/** The id of the request being served; for errors and log lines. */
export function currentRequestId(): string | undefined {
  return requestIds.getStore();
}

/** Names the request (the caller's x-request-id when it is a sane one), echoes it, and logs one line when it is answered. */
export function requestContext(logger: Logger) {
  return (request: Request, response: Response, next: NextFunction): void => {
    const startedAt = performance.now();
    const { method, path } = request;
    const given = request.header('x-request-id');
    const requestId = given !== undefined && acceptable.test(given) ? given : newId('req');
    response.setHeader('x-request-id', requestId);
    if (path.startsWith('/v1/')) response.setHeader('Cache-Control', 'no-store');
    requestIds.run(requestId, () => {
      response.once('close', () => {
        const status = response.writableFinished ? String(response.statusCode) : 'aborted';
        const line = `${method} ${path} ${status} ${(performance.now() - startedAt).toFixed(1)} ms`;
        // Heartbeats and probes come every second or two and would drown the rest.
        if (isRoutine(path) && response.statusCode < 400) logger.debug(line);
        else logger.log(line);
      });
      next();
    });
  };
}

function isRoutine(path: string): boolean {
  return path.startsWith('/health/') || path.endsWith('/heartbeat');
}

// What Nest says while it starts tells an operator nothing.
const startUpContexts = new Set([
  'NestFactory',
  'InstanceLoader',
  'RoutesResolver',
  'RouterExplorer',
  'NestApplication',
]);

/** Nest's logger with the request id on every line that belongs to a request. */
export class RequestLogger extends ConsoleLogger {
  constructor(format: 'json' | 'text') {
    const logLevels: LogLevel[] = ['fatal', 'error', 'warn', 'log'];
    super({ json: format === 'json', colors: false, logLevels });
  }

  override log(message: unknown, ...rest: unknown[]): void {
    if (startUpContexts.has(String(rest.at(-1)))) return;
    super.log(message, ...rest);
  }

  protected override getTimestamp(): string {
    return new Date().toISOString();
  }

  protected override getJsonLogObject(...args: Parameters<ConsoleLogger['getJsonLogObject']>) {
    return Object.assign(super.getJsonLogObject(...args), { requestId: currentRequestId() });
  }

  protected override formatContext(context: string): string {
    const requestId = currentRequestId();
    return super.formatContext(context) + (requestId === undefined ? '' : `${requestId} `);
  }
}
