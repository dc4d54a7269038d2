import type { FieldFault } from '@cairn/domain';

/** What the agent, or the way to it, can answer instead of doing the verb. */
export type AgentErrorCode =
  | 'invalid-argument'
  | 'unauthorized'
  | 'route-not-found'
  | 'volume-not-found'
  | 'volume-deleted'
  | 'volume-size-mismatch'
  | 'volume-exported'
  | 'volume-busy'
  | 'snapshot-not-found'
  | 'snapshot-exists'
  | 'snapshot-busy'
  | 'checksum-mismatch'
  | 'stale-generation'
  | 'export-not-found'
  | 'export-busy'
  | 'export-failed'
  | 'pool-full'
  | 'storage-failed'
  | 'stopping'
  | 'internal'
  | 'unreachable'
  | 'timeout'
  | 'bad-response';

/** The status each code is sent with; the last three never leave the client and have a status only to keep the table whole. */
export const agentErrorStatus = {
  'invalid-argument': 400,
  unauthorized: 401,
  'route-not-found': 404,
  'volume-not-found': 404,
  'volume-deleted': 410,
  'volume-size-mismatch': 409,
  'volume-exported': 409,
  'volume-busy': 409,
  'snapshot-not-found': 404,
  'snapshot-exists': 409,
  'snapshot-busy': 409,
  'checksum-mismatch': 400,
  'stale-generation': 409,
  'export-not-found': 404,
  'export-busy': 409,
  'export-failed': 500,
  'pool-full': 507,
  'storage-failed': 500,
  stopping: 503,
  internal: 500,
  unreachable: 502,
  timeout: 504,
  'bad-response': 502,
} as const satisfies Record<AgentErrorCode, number>;

/**
 * Whether the same call can succeed later without anybody changing the request.
 *
 * `unauthorized` is retryable because the remedy (fixing the token of a process) does not touch the
 * operation that waits for it.
 */
export const agentErrorRetryable = {
  'invalid-argument': false,
  unauthorized: true,
  'route-not-found': false,
  'volume-not-found': false,
  'volume-deleted': false,
  'volume-size-mismatch': false,
  'volume-exported': true,
  'volume-busy': true,
  'snapshot-not-found': false,
  'snapshot-exists': false,
  'snapshot-busy': true,
  'checksum-mismatch': false,
  'stale-generation': false,
  'export-not-found': false,
  'export-busy': true,
  'export-failed': true,
  'pool-full': true,
  'storage-failed': true,
  stopping: true,
  internal: true,
  unreachable: true,
  timeout: true,
  'bad-response': true,
} as const satisfies Record<AgentErrorCode, boolean>;

/** A verb that was refused or whose outcome is unknown (`unreachable`, `timeout`, `bad-response`): those may have been done. */
export class AgentError extends Error {
  override readonly name = 'AgentError';

  constructor(
    readonly code: AgentErrorCode,
    message: string,
    readonly details: { readonly errors?: readonly FieldFault[] } = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /** See {@link agentErrorRetryable}. */
  get retryable(): boolean {
    return agentErrorRetryable[this.code];
  }

  /** See {@link agentErrorStatus}. */
  get status(): number {
    return agentErrorStatus[this.code];
  }
}

/** Narrows a word from the wire to a code of ours. */
export function isAgentErrorCode(word: string): word is AgentErrorCode {
  return Object.hasOwn(agentErrorStatus, word);
}
