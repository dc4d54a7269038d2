import type { NextFunction, Request, Response } from 'express';
import { TransportError } from './problem.js';

/** The largest body any endpoint needs is a heartbeat of some hundred pools. */
export const BODY_LIMIT = '256kb';

const messages = {
  'malformed-request': 'The request body is not valid JSON.',
  'body-too-large': `The request body is larger than ${BODY_LIMIT}.`,
  'unsupported-media-type': 'Send the body as application/json in UTF-8.',
} as const;

// Names that body-parser gives to its refusals.
const parserCodes: Readonly<Record<string, keyof typeof messages>> = {
  'entity.parse.failed': 'malformed-request',
  'entity.too.large': 'body-too-large',
  'encoding.unsupported': 'unsupported-media-type',
  'charset.unsupported': 'unsupported-media-type',
  'request.aborted': 'malformed-request',
  'request.size.invalid': 'malformed-request',
  'entity.verify.failed': 'malformed-request',
};

/** Refuses a body that the parser does not take, by its type: it would otherwise be ignored in silence. */
export function requireJson(request: Request, _response: Response, next: NextFunction): void {
  const hasBody =
    request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length'] ?? 0) > 0;
  if (hasBody && !request.is('application/json')) {
    next(new TransportError('unsupported-media-type', messages['unsupported-media-type']));
    return;
  }
  next();
}

/** What a refusal of the body parser means, or `undefined` when the error is not one. */
export function bodyRefusalOf(error: unknown): TransportError | undefined {
  if (typeof error !== 'object' || error === null || !('type' in error)) return undefined;
  const code = parserCodes[String(error.type)];
  return code && new TransportError(code, messages[code]);
}
