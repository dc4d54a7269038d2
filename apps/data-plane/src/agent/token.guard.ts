import { Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import { AgentError } from '@cairn/agent';
import type { Request } from 'express';
import { AgentToken } from './agent-token.js';

/** Lets in only who knows the agent token. */
@Injectable()
export class TokenGuard implements CanActivate {
  constructor(private readonly token: AgentToken) {}

  canActivate(context: ExecutionContext): boolean {
    const { authorization } = context.switchToHttp().getRequest<Request>().headers;
    if (this.token.isIn(authorization)) return true;
    throw new AgentError('unauthorized', 'the bearer token is not the CAIRN_AGENT_TOKEN of this node');
  }
}
