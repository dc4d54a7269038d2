import { UnitOfWork } from '@cairn/persistence';
import { Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import type { Request } from 'express';
import { bearerOf, parseApiKey, secretMatches } from './api-key.js';
import { setCaller } from './params.js';
import { TransportError } from './problem.js';

const HELP = 'Send an API key in the header "Authorization: Bearer cairn_…".';

/** Lets a request through that carries a valid API key, and notes its project. */
@Injectable()
export class AuthenticateGuard implements CanActivate {
  constructor(private readonly unitOfWork: UnitOfWork) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const request = context.switchToHttp().getRequest<Request>();
    const token = bearerOf(request.header('authorization'));
    if (token === undefined)
      throw new TransportError('not-authenticated', `The request carries no API key. ${HELP}`);
    const presented = parseApiKey(token);
    const kept = presented && (await this.unitOfWork.read(({ projects }) => projects.findKey(presented.id)));
    if (!presented || !secretMatches(presented.secret, kept?.secretSha256) || !kept) {
      throw new TransportError('not-authenticated', `The API key is not valid. ${HELP}`);
    }
    setCaller(request, kept.projectId);
    return true;
  }
}
