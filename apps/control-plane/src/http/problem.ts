import type { ErrorCode, ErrorDetails, FieldFault } from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';

/** Refusals that belong to HTTP alone. */
export type TransportCode =
  'malformed-request' | 'not-authenticated' | 'route-not-found' | 'body-too-large' | 'unsupported-media-type';

export type ProblemCode = ErrorCode | TransportCode;

/** Thrown inside http/ only, for what the domain knows nothing of. */
export class TransportError extends Error {
  override readonly name = 'TransportError';

  constructor(
    readonly code: TransportCode,
    message: string,
  ) {
    super(message);
  }
}

/** Which HTTP status each code is answered with, and its title. Exhaustive: a new code does not compile without one. */
export const problems = {
  'malformed-request': { status: 400, title: 'The request cannot be read' },
  'invalid-request': { status: 400, title: 'The request is not valid' },
  'client-token-conflict': { status: 400, title: 'Two different client tokens' },
  'not-authenticated': { status: 401, title: 'No valid credentials' },
  'route-not-found': { status: 404, title: 'No such resource' },
  'volume-not-found': { status: 404, title: 'No such volume' },
  'attachment-not-found': { status: 404, title: 'No such attachment' },
  'snapshot-not-found': { status: 404, title: 'No such snapshot' },
  'operation-not-found': { status: 404, title: 'No such operation' },
  'node-not-found': { status: 404, title: 'No such node' },
  'idempotent-parameter-mismatch': { status: 409, title: 'The client token was used for another request' },
  'volume-in-use': { status: 409, title: 'The volume is attached' },
  'volume-wrong-state': { status: 409, title: 'The volume is in the wrong state' },
  'volume-busy': { status: 409, title: 'Something is being done with the volume' },
  'snapshot-in-use': { status: 409, title: 'Something is being made of the snapshot' },
  'snapshot-busy': { status: 409, title: 'Something is being done with the snapshot' },
  'snapshot-expired': { status: 409, title: 'No block was put for too long' },
  'checksum-mismatch': { status: 400, title: 'Other blocks were put' },
  'snapshot-wrong-state': { status: 409, title: 'The snapshot is in the wrong state' },
  'attachment-wrong-state': { status: 409, title: 'The attachment is in the wrong state' },
  'concurrent-change': { status: 409, title: 'Something else changed it at the same moment' },
  'stale-generation': { status: 409, title: 'A newer attachment exists' },
  'volume-size-mismatch': { status: 409, title: 'The volume exists with another size' },
  'export-busy': { status: 409, title: 'A guest still uses the volume' },
  'lease-lost': { status: 409, title: 'Another worker has the operation' },
  'body-too-large': { status: 413, title: 'The request body is too large' },
  'unsupported-media-type': { status: 415, title: 'The request body is not JSON' },
  'snapshot-lost': { status: 500, title: 'The node has the snapshot no more' },
  'agent-refused': { status: 500, title: 'The node refused' },
  internal: { status: 500, title: 'Something is wrong with the service' },
  'dependency-unavailable': { status: 503, title: 'The service cannot work now' },
  'no-capacity': { status: 503, title: 'No node has room' },
  'node-unavailable': { status: 503, title: 'The node is down' },
  'agent-unreachable': { status: 503, title: 'The node does not answer' },
  'pool-full': { status: 503, title: 'The pool is full' },
  'pool-unavailable': { status: 503, title: 'The pool cannot be used' },
  'deadline-exceeded': { status: 504, title: 'It took too long' },
} as const satisfies Record<ProblemCode, { status: number; title: string }>;

/** One field of a request and what is wrong with it. */
export class FieldFaultDto implements FieldFault {
  @ApiProperty({ example: 'sizeBytes' })
  field!: string;

  @ApiProperty({ example: 'must be a multiple of 4096' })
  message!: string;
}

/** An error, as RFC 9457 application/problem+json. */
export class ProblemDto {
  @ApiProperty({
    description: 'Names the kind of problem; stable.',
    example: 'urn:cairn:problem:volume-in-use',
  })
  type!: string;

  @ApiProperty({ example: 'The volume is attached' })
  title!: string;

  @ApiProperty({ example: 409 })
  status!: number;

  @ApiProperty({ description: 'What happened and what to do, for a person.' })
  detail!: string;

  @ApiProperty({
    description: 'For a program; stable.',
    enum: Object.keys(problems),
    example: 'volume-in-use',
  })
  code!: ProblemCode;

  @ApiPropertyOptional({ description: 'The state that refused.', example: 'in-use' })
  currentState?: string;

  @ApiPropertyOptional({
    description: 'The states that would have accepted.',
    example: ['available', 'error'],
    type: [String],
  })
  allowedStates?: readonly string[];

  @ApiProperty({ description: 'Whether the same request can succeed later, unchanged.' })
  retryable!: boolean;

  @ApiPropertyOptional({ description: 'Everything that is wrong with the request.', type: [FieldFaultDto] })
  errors?: readonly FieldFaultDto[];

  @ApiProperty({ description: 'The x-request-id of this answer, and of the log lines about it.' })
  requestId!: string;
}

/** The body of an error answer. */
export function problemOf(
  code: ProblemCode,
  details: Pick<ErrorDetails, 'message' | 'currentState' | 'allowedStates' | 'faults'>,
  context: { retryable: boolean; requestId: string },
): ProblemDto {
  const { status, title } = problems[code];
  return {
    type: `urn:cairn:problem:${code}`,
    title,
    status,
    detail: details.message,
    code,
    currentState: details.currentState,
    allowedStates: details.allowedStates,
    retryable: context.retryable,
    errors: details.faults,
    requestId: context.requestId,
  };
}
