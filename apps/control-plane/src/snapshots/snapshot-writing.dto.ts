import {
  isId,
  SHA256_BASE64,
  VOLUME_SIZE_MAX,
  VOLUME_SIZE_MIN,
  VOLUME_SIZE_MULTIPLE,
  volumeSizeFault,
  WRITING_TIMEOUT_MINUTES,
  type SnapshotId,
} from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { clientToken } from '../http/params.js';
import { Optional, Required, wholeNumber } from '../http/validation.js';
import { CreateSnapshotDto } from './snapshot.dto.js';

const { min, max, fallback } = WRITING_TIMEOUT_MINUTES;

/** The body of a snapshot that is written from blocks. */
export class StartSnapshotDto extends CreateSnapshotDto {
  @ApiProperty({
    example: 1_073_741_824,
    description: `Of the volume, in bytes; a multiple of ${VOLUME_SIZE_MULTIPLE}, and not less than the parent's.`,
    minimum: VOLUME_SIZE_MIN,
    maximum: VOLUME_SIZE_MAX,
  })
  @Required(volumeSizeFault)
  sizeBytes!: number;

  @ApiPropertyOptional({
    example: 'snap-0123456789abcdef0',
    description: 'What is not put is as in this one; without it, zeroes.',
  })
  @Optional((value) => (isId('snap', value) ? undefined : 'must be a snapshot id'))
  parentSnapshotId?: SnapshotId;

  @ApiPropertyOptional({
    description: 'It is cancelled when no block was put for so long.',
    minimum: min,
    maximum: max,
    default: fallback,
  })
  @Optional(wholeNumber(min, max))
  timeoutMinutes?: number;
}

/** The body of a completion. */
export class CompleteSnapshotDto {
  @ApiProperty({ description: 'How many different blocks were put.', minimum: 0 })
  @Required(wholeNumber(0, Number.MAX_SAFE_INTEGER))
  changedBlocks!: number;

  @ApiPropertyOptional({
    description:
      'SHA-256, in Base64, of the SHA-256 of each block that was put, one after the other in the order of their indices.',
  })
  @Optional((value) =>
    typeof value === 'string' && SHA256_BASE64.test(value) ? undefined : 'must be a SHA-256 in Base64',
  )
  checksum?: string;

  @ApiPropertyOptional({ description: 'The same as the Idempotency-Key header.', maxLength: 64 })
  @Optional(clientToken)
  clientToken?: string;
}

/** Where blocks are put. */
export class SnapshotUploadDto {
  @ApiProperty({
    description:
      'PUT url/INDEX with the bytes as application/octet-stream and x-cairn-sha256: their SHA-256 in Base64, without the ' +
      'API key. x-cairn-progress may tell how far you are, in percent.',
    example: 'http://10.0.0.7:7401/v1/data/TICKET/blocks',
  })
  url!: string;

  @ApiProperty({ description: 'Of each block; the last may be shorter.', example: 524_288 })
  blockBytes!: number;

  @ApiProperty({ format: 'date-time', description: 'Ask for another address before.' })
  expiresAt!: string;
}
