/**
 * Every way the control world can refuse or fail, and whether trying the same thing again later can help.
 *
 * A new code does not compile until each boundary's own `satisfies Record<ErrorCode, …>` table has decided on it.
 */
export const errorRetryable = {
  'invalid-request': false,
  'client-token-conflict': false,
  'idempotent-parameter-mismatch': false,
  'volume-not-found': false,
  'attachment-not-found': false,
  'snapshot-not-found': false,
  'operation-not-found': false,
  'node-not-found': false,
  'volume-in-use': false,
  'volume-wrong-state': false,
  'volume-busy': true,
  'attachment-wrong-state': false,
  'snapshot-wrong-state': false,
  'snapshot-in-use': true,
  'snapshot-busy': true,
  'snapshot-lost': false,
  'snapshot-expired': false,
  'checksum-mismatch': false,
  'concurrent-change': true,
  'lease-lost': true,
  'dependency-unavailable': true,
  'no-capacity': true,
  'node-unavailable': true,
  'agent-unreachable': true,
  'agent-refused': false,
  'pool-full': true,
  'pool-unavailable': true,
  'export-busy': true,
  'stale-generation': false,
  'volume-size-mismatch': false,
  'deadline-exceeded': true,
  internal: false,
} as const satisfies Record<string, boolean>;

export type ErrorCode = keyof typeof errorRetryable;

/** True when the text is one of our codes; for codes read back from a row or from another process. */
export function isErrorCode(text: unknown): text is ErrorCode {
  return typeof text === 'string' && Object.hasOwn(errorRetryable, text);
}

/** One thing wrong with a request: which field, and what would be right. */
export interface FieldFault {
  field: string;
  message: string;
}

/** What an error says about itself besides its code. */
export interface ErrorDetails {
  /** A sentence for the person who reads it: what happened and what to do. */
  message: string;
  currentState?: string;
  allowedStates?: readonly string[];
  faults?: readonly FieldFault[];
  /** Overrides the table: a wrong state that passes by itself is worth a retry, one that does not is not. */
  retryable?: boolean;
}

/** The one error class of the control world; a boundary maps its code, nobody reads its text. */
export class DomainError extends Error {
  override readonly name = 'DomainError';

  constructor(
    readonly code: ErrorCode,
    readonly details: ErrorDetails,
    options?: { cause?: unknown },
  ) {
    super(details.message, options);
  }

  get retryable(): boolean {
    return this.details.retryable ?? errorRetryable[this.code];
  }
}

/** Why a record is in the state it is in, kept on the row. */
export interface Reason {
  code: ErrorCode;
  message: string;
}

/**
 * The reason to keep on a record for this error.
 *
 * Anything unforeseen becomes `internal` without its text, which may quote SQL or paths and is not for callers: log it.
 */
export function reasonOf(error: unknown): Reason {
  if (error instanceof DomainError) return { code: error.code, message: error.message };
  return {
    code: 'internal',
    message: "Something unforeseen went wrong; the log has it under the operation's id.",
  };
}
