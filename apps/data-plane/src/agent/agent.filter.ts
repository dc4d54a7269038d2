import { Catch, HttpException, Logger, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import { AgentError, type AgentErrorCode } from '@cairn/agent';
import type { Response } from 'express';

/** Turns whatever a verb threw into `{code, message, retryable, errors?}` with the status of the code. */
@Catch()
export class AgentFilter implements ExceptionFilter {
  private readonly logger = new Logger(AgentFilter.name);

  catch(thrown: unknown, host: ArgumentsHost): void {
    const error = agentErrorFrom(thrown);
    if (error.status >= 500) this.logger.error(`${error.code}: ${error.message}`, causeOf(thrown));
    const { code, message, retryable, status, details } = error;
    const response = host.switchToHttp().getResponse<Response>();
    if (response.headersSent) return;
    response.status(status).json({ code, message, retryable, ...details });
  }
}

function agentErrorFrom(thrown: unknown): AgentError {
  if (thrown instanceof AgentError) return thrown;
  if (thrown instanceof HttpException) {
    // Only the framework throws these: a route that does not exist, a body that cannot be read.
    const status = thrown.getStatus();
    const code: AgentErrorCode =
      status === 404 ? 'route-not-found' : status < 500 ? 'invalid-argument' : 'internal';
    return new AgentError(code, thrown.message, {}, { cause: thrown });
  }
  return new AgentError('internal', 'the agent failed; its log tells more', {}, { cause: thrown });
}

function causeOf(thrown: unknown): string | undefined {
  const innermost = thrown instanceof Error && thrown.cause instanceof Error ? thrown.cause : thrown;
  return innermost instanceof Error ? innermost.stack : String(innermost);
}
