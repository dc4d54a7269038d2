import { createHash } from 'node:crypto';
import { DomainError } from './errors.js';

export const CLIENT_TOKEN_MAX = 64;
const tokenPattern = /^[\x21-\x7e]{1,64}$/;

/** What a client token must look like, in words for the caller. */
export const clientTokenRule = `must be 1 to ${CLIENT_TOKEN_MAX} printable ASCII characters without spaces`;

/** True when the text can be a client token. */
export function isClientToken(text: unknown): text is string {
  return typeof text === 'string' && tokenPattern.test(text);
}

/**
 * The one token of a request that may carry it in the `Idempotency-Key` header and in the body.
 *
 * `undefined` when it carries none: the request is then allowed, and repeating it does the work twice.
 * Throws `invalid-request` for a malformed token and `client-token-conflict` when the two differ.
 */
export function resolveClientToken(header: string | undefined, body: string | undefined): string | undefined {
  if (header !== undefined && !isClientToken(header)) {
    const faults = [{ field: 'Idempotency-Key', message: clientTokenRule }];
    throw new DomainError('invalid-request', { message: 'The Idempotency-Key header is malformed.', faults });
  }
  if (header !== undefined && body !== undefined && header !== body) {
    throw new DomainError('client-token-conflict', {
      message:
        'The Idempotency-Key header and clientToken name two different tokens. Send one, or the same in both.',
    });
  }
  return header ?? body;
}

/** A digest of what was asked for, independent of the order of its keys and of absent optional fields. */
export function requestDigest(request: Readonly<Record<string, unknown>>): string {
  return createHash('sha256').update(canonicalJson(request)).digest('hex');
}

/** Throws `idempotent-parameter-mismatch` unless the earlier operation under the token was asked for the same thing. */
export function sameRequestOrThrow(
  earlier: { id: string; requestDigest: string },
  request: { requestDigest: string },
): void {
  if (earlier.requestDigest === request.requestDigest) return;
  throw new DomainError('idempotent-parameter-mismatch', {
    message: `This client token was used for operation ${earlier.id} with other parameters. Use a new token for a new request.`,
  });
}

function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
  const fields = Object.entries(value)
    .filter(([, field]) => field !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, field]) => `${JSON.stringify(key)}:${canonicalJson(field)}`);
  return `{${fields.join(',')}}`;
}
