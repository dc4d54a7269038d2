import {
  errorRetryable,
  operationKinds,
  operationStates,
  type Operation,
  type OperationKind,
  type OperationState,
} from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';

/** Why something failed, on the record that failed. */
export class ReasonDto {
  @ApiProperty({ example: 'no-capacity' })
  code!: string;

  @ApiProperty({ example: 'No node has room for 64 GiB.' })
  message!: string;
}

/** Why an operation failed, or why its latest try did. */
export class OperationErrorDto extends ReasonDto {
  @ApiProperty({ description: 'Whether asking for the same again later can succeed.' })
  retryable!: boolean;
}

/** What an operation acts on. */
export class OperationTargetDto {
  @ApiPropertyOptional({ example: 'vol-0123456789abcdef0' })
  volumeId?: string;

  @ApiPropertyOptional({ example: 'att-0123456789abcdef0' })
  attachmentId?: string;

  @ApiPropertyOptional({ example: 'snap-0123456789abcdef0' })
  snapshotId?: string;

  @ApiPropertyOptional({ example: 'grp-0123456789abcdef0', description: 'Snapshots of one point in time.' })
  groupId?: string;
}

/** One mutation on its way. */
export class OperationDto {
  @ApiProperty({ example: 'op-0123456789abcdef0' })
  id!: string;

  @ApiProperty({ enum: operationKinds })
  kind!: OperationKind;

  @ApiProperty({ enum: operationStates })
  state!: OperationState;

  @ApiProperty({ type: OperationTargetDto })
  target!: OperationTargetDto;

  @ApiProperty({ description: 'Percent.', minimum: 0, maximum: 100 })
  progress!: number;

  @ApiProperty({ description: 'How often a worker has begun it.' })
  attempts!: number;

  @ApiPropertyOptional({
    type: OperationErrorDto,
    description:
      'The final error of a failed operation; the latest one of an operation that is being retried.',
  })
  error?: OperationErrorDto;

  @ApiProperty({
    description: 'When it fails with `deadline-exceeded` if it has not ended.',
    format: 'date-time',
  })
  deadline!: string;

  @ApiProperty({ format: 'date-time' })
  createdAt!: string;

  @ApiProperty({ format: 'date-time' })
  updatedAt!: string;

  @ApiPropertyOptional({ format: 'date-time' })
  finishedAt?: string;
}

/** The operation as the API shows it. */
export function toOperationDto(operation: Operation): OperationDto {
  const { id, kind, state, target, progress, attempts, error } = operation;
  return {
    id,
    kind,
    state,
    target,
    progress,
    attempts,
    error: error && { ...error, retryable: errorRetryable[error.code] },
    deadline: operation.deadline.toISOString(),
    createdAt: operation.createdAt.toISOString(),
    updatedAt: operation.updatedAt.toISOString(),
    finishedAt: operation.finishedAt?.toISOString(),
  };
}
