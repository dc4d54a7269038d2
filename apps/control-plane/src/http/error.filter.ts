import { DomainError, newId } from '@cairn/domain';
import { Catch, HttpException, Logger, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import type { Response } from 'express';
import { bodyRefusalOf } from './body.js';
import { problemOf, TransportError, type ProblemDto } from './problem.js';
import { currentRequestId } from './request-context.js';

const RETRY_AFTER_SECONDS = '1';

/** Turns whatever was thrown into a problem+json answer, and logs it once when it is our fault. */
@Catch()
export class ErrorFilter implements ExceptionFilter {
  private readonly logger = new Logger(ErrorFilter.name);

  catch(error: unknown, host: ArgumentsHost): void {
    const response = host.switchToHttp().getResponse<Response>();
    const problem = problemFor(error);
    this.log(error, problem);
    if (response.headersSent) {
      response.destroy();
      return;
    }
    if (problem.status === 401) response.setHeader('WWW-Authenticate', 'Bearer realm="cairn"');
    if (problem.status === 503) response.setHeader('Retry-After', RETRY_AFTER_SECONDS);
    response.status(problem.status).type('application/problem+json').send(JSON.stringify(problem));
  }

  private log(error: unknown, problem: ProblemDto): void {
    if (problem.code === 'internal') {
      this.logger.error(
        error instanceof Error ? error.message : String(error),
        error instanceof Error ? error.stack : undefined,
      );
    } else if (problem.status >= 500) {
      const cause =
        error instanceof Error && error.cause instanceof Error ? `: ${causeText(error.cause)}` : '';
      this.logger.warn(`${problem.code}${cause}`);
    }
  }
}

/** The innermost sentence of an error; a connection refused on several addresses has it one level down. */
function causeText(cause: Error): string {
  if (cause instanceof AggregateError && cause.errors[0] instanceof Error) return cause.errors[0].message;
  return cause.message;
}

function problemFor(error: unknown): ProblemDto {
  const requestId = currentRequestId() ?? newId('req');
  if (error instanceof DomainError) {
    return problemOf(error.code, error.details, { retryable: error.retryable, requestId });
  }
  const transport =
    error instanceof TransportError
      ? error
      : bodyRefusalOf(error instanceof HttpException ? error.cause : error);
  if (transport) return problemOf(transport.code, transport, { retryable: false, requestId });
  if (error instanceof HttpException) {
    // Only Nest itself throws these: an unknown route, or a path that is not valid percent-encoding.
    return error.getStatus() === 404
      ? problemOf(
          'route-not-found',
          { message: 'There is nothing here. See /docs for what there is.' },
          { retryable: false, requestId },
        )
      : problemOf(
          'malformed-request',
          { message: `The request cannot be read: ${error.message}.` },
          { retryable: false, requestId },
        );
  }
  const message = 'The service failed to answer. Its log has the reason under this request id.';
  return problemOf('internal', { message }, { retryable: false, requestId });
}
