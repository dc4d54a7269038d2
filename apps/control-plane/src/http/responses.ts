import { applyDecorators, HttpCode, type Type, UseGuards } from '@nestjs/common';
import {
  ApiAcceptedResponse,
  ApiBearerAuth,
  ApiExtraModels,
  ApiHeader,
  ApiResponse,
  getSchemaPath,
} from '@nestjs/swagger';
import { AuthenticateGuard } from './authenticate.guard.js';
import { ProblemDto, problems, type ProblemCode } from './problem.js';

/** Documents the problems an endpoint answers with, grouped by status. */
export function Problems(...codes: ProblemCode[]): MethodDecorator & ClassDecorator {
  const statuses = [...new Set(codes.map((code) => problems[code].status))];
  const responses = statuses.map((status) =>
    ApiResponse({
      status,
      description: codes
        .filter((code) => problems[code].status === status)
        .map((code) => `\`${code}\`: ${problems[code].title}`)
        .join('; '),
      content: { 'application/problem+json': { schema: { $ref: getSchemaPath(ProblemDto) } } },
    }),
  );
  return applyDecorators(ApiExtraModels(ProblemDto), ...responses);
}

/** An endpoint that needs an API key, with the problems every such endpoint can answer. */
export function NeedsApiKey(...codes: ProblemCode[]): MethodDecorator & ClassDecorator {
  return applyDecorators(
    UseGuards(AuthenticateGuard),
    ApiBearerAuth('apiKey'),
    Problems('not-authenticated', 'internal', 'dependency-unavailable', ...codes),
  );
}

/** A mutation: it takes a client token in a header. */
export function TakesIdempotencyKey(): MethodDecorator {
  return ApiHeader({
    name: 'Idempotency-Key',
    required: false,
    description:
      'A client token of 1 to 64 printable ASCII characters. The same token with the same parameters gives the same ' +
      'operation; with other parameters it is refused. Without one, repeating the request does the work again.',
  });
}

/** Problems of a request that has a JSON body. */
const bodyProblems = ['malformed-request', 'body-too-large', 'unsupported-media-type'] as const;

/**
 * A mutation that answers 202 with an operation, named in `Location` too; `codes` are its problems beside those that
 * every such endpoint can answer.
 */
export function StartsOperation(
  type: Type,
  { hasBody, codes }: { hasBody: boolean; codes: readonly ProblemCode[] },
): MethodDecorator {
  return applyDecorators(
    HttpCode(202),
    ApiAcceptedResponse({ type, headers: { Location: { schema: { type: 'string' } } } }),
    TakesIdempotencyKey(),
    NeedsApiKey(
      ...(hasBody ? bodyProblems : []),
      'invalid-request',
      'client-token-conflict',
      'idempotent-parameter-mismatch',
      'concurrent-change',
      ...codes,
    ),
  );
}
