import {
  clientTokenRule,
  DomainError,
  isClientToken,
  parseId,
  resolveClientToken,
  type ErrorCode,
  type Id,
  type ProjectId,
} from '@cairn/domain';
import { createParamDecorator, type ExecutionContext, type PipeTransform } from '@nestjs/common';
import { ApiPropertyOptional } from '@nestjs/swagger';
import type { Request } from 'express';
import { Optional, type Check } from './validation.js';

const kinds = {
  vol: { code: 'volume-not-found', noun: 'volume' },
  att: { code: 'attachment-not-found', noun: 'attachment' },
  snap: { code: 'snapshot-not-found', noun: 'snapshot' },
  op: { code: 'operation-not-found', noun: 'operation' },
  node: { code: 'node-not-found', noun: 'node' },
} as const satisfies Record<string, { code: ErrorCode; noun: string }>;

/** Reads an id from the path; a text that cannot be one names nothing, so it is answered like an unknown id. */
export class IdPipe<P extends keyof typeof kinds> implements PipeTransform<string, Id<P>> {
  constructor(private readonly prefix: P) {}

  transform(text: string): Id<P> {
    const id = parseId(this.prefix, text);
    if (id !== undefined) return id;
    const { code, noun } = kinds[this.prefix];
    throw new DomainError(code, { message: `There is no ${noun} of this id.` });
  }
}

/** What a client token must be. */
export const clientToken: Check = (value) => (isClientToken(value) ? undefined : clientTokenRule);

/** The request of a mutation without other parameters. */
export class TokenQuery {
  @ApiPropertyOptional({
    description: 'Makes a repeated request harmless; the Idempotency-Key header does the same.',
  })
  @Optional(clientToken)
  clientToken?: string;
}

/** The client token of a mutation from its header and the DTO that may carry it too. */
export function clientTokenOf(request: Request, dto: { clientToken?: string }): string | undefined {
  return resolveClientToken(request.header('idempotency-key'), dto.clientToken);
}

const callers = new WeakMap<object, ProjectId>();

/** Remembers whose request it is. */
export function setCaller(request: object, projectId: ProjectId): void {
  callers.set(request, projectId);
}

/** The project whose key the request carries. */
export const Caller = createParamDecorator((_: unknown, context: ExecutionContext): ProjectId => {
  const projectId = callers.get(context.switchToHttp().getRequest<Request>());
  if (projectId === undefined) throw new Error('A route that needs a caller has no AuthenticateGuard.');
  return projectId;
});
