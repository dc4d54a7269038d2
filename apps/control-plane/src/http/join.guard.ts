import { Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import type { Request } from 'express';
import { bearerOf, sameText } from './api-key.js';
import { TransportError } from './problem.js';

/** The token that every node shows; a provider of its own, so that the guard can be injected with it. */
export class JoinToken {
  constructor(readonly value: string) {}
}

/** Lets a node through that shows the join token. */
@Injectable()
export class JoinGuard implements CanActivate {
  constructor(private readonly joinToken: JoinToken) {}

  canActivate(context: ExecutionContext): boolean {
    const token = bearerOf(context.switchToHttp().getRequest<Request>().header('authorization'));
    if (token !== undefined && sameText(token, this.joinToken.value)) return true;
    throw new TransportError(
      'not-authenticated',
      'Send the join token (CAIRN_JOIN_TOKEN) as a bearer token.',
    );
  }
}
