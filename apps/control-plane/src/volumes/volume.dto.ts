import {
  VOLUME_SIZE_MAX,
  VOLUME_SIZE_MIN,
  VOLUME_SIZE_MULTIPLE,
  volumeSizeFault,
  volumeStates,
  type Attachment,
  type Volume,
  type VolumeState,
} from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { AttachmentDto, toAttachmentDto } from '../attachments/attachment.dto.js';
import { clientToken } from '../http/params.js';
import { Optional, Required, text, type Check } from '../http/validation.js';
import { OperationDto, ReasonDto } from '../operations/operation.dto.js';
import { decodePageToken } from './page-token.js';

/** The body of a create. */
export class CreateVolumeDto {
  @ApiProperty({
    example: 1_073_741_824,
    description: `Bytes; a multiple of ${VOLUME_SIZE_MULTIPLE}.`,
    minimum: VOLUME_SIZE_MIN,
    maximum: VOLUME_SIZE_MAX,
  })
  @Required(volumeSizeFault)
  sizeBytes!: number;

  @ApiPropertyOptional({ description: 'Yours; need not be unique.', maxLength: 255 })
  @Optional(text(1, 255))
  name?: string;

  @ApiPropertyOptional({ description: 'The same as the Idempotency-Key header.', maxLength: 64 })
  @Optional(clientToken)
  clientToken?: string;
}

export const PAGE_LIMIT_MAX = 1000;
export const PAGE_LIMIT_DEFAULT = 100;

const limit: Check = (value) =>
  typeof value === 'string' &&
  /^\d{1,4}$/.test(value) &&
  Number(value) >= 1 &&
  Number(value) <= PAGE_LIMIT_MAX
    ? undefined
    : `must be a whole number from 1 to ${PAGE_LIMIT_MAX}`;

const pageToken: Check = (value) =>
  typeof value === 'string' && decodePageToken(value) !== undefined
    ? undefined
    : 'must be the nextPageToken of an earlier answer';

const states: Check = (value) =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.every((each) => volumeStates.some((state) => state === each))
    ? undefined
    : `must be one or more, separated by commas, of ${volumeStates.join(', ')}`;

/** The query of a list. */
export class ListVolumesQuery {
  @ApiPropertyOptional({ type: Number, default: PAGE_LIMIT_DEFAULT, minimum: 1, maximum: PAGE_LIMIT_MAX })
  @Optional(limit)
  limit?: string;

  @ApiPropertyOptional({ description: 'The nextPageToken of the page before.' })
  @Optional(pageToken)
  pageToken?: string;

  @ApiPropertyOptional({
    type: String,
    description: `Only these states, separated by commas: ${volumeStates.join(', ')}. Without it, all but deleted.`,
    example: 'available,in-use',
  })
  @Transform(({ value }: { value: unknown }) => (typeof value === 'string' ? value.split(',') : value))
  @Optional(states)
  state?: VolumeState[];
}

/** A volume. */
export class VolumeDto {
  @ApiProperty({ example: 'vol-0123456789abcdef' })
  id!: string;

  @ApiPropertyOptional()
  name?: string;

  @ApiProperty({ example: 1_073_741_824 })
  sizeBytes!: number;

  @ApiProperty({ enum: volumeStates })
  state!: VolumeState;

  @ApiPropertyOptional({ type: ReasonDto, description: 'Why it is in error.' })
  reason?: ReasonDto;

  @ApiPropertyOptional({ description: 'The node that holds it.', example: 'node-0123456789abcdef' })
  nodeId?: string;

  @ApiProperty({ type: [AttachmentDto], description: 'The attachment that holds it now, if any.' })
  attachments!: AttachmentDto[];

  @ApiProperty({ format: 'date-time' })
  createdAt!: string;

  @ApiProperty({ format: 'date-time' })
  updatedAt!: string;

  @ApiPropertyOptional({ format: 'date-time' })
  deletedAt?: string;
}

/** The answer to a create or delete. */
export class VolumeAcceptedDto {
  @ApiProperty({ type: OperationDto })
  operation!: OperationDto;

  @ApiPropertyOptional({ type: VolumeDto, description: 'Absent when a repeated request finds it forgotten.' })
  volume?: VolumeDto;
}

/** One page of volumes. */
export class VolumeListDto {
  @ApiProperty({ type: [VolumeDto], description: 'Newest first.' })
  volumes!: VolumeDto[];

  @ApiPropertyOptional({ description: 'Where the next page begins; absent on the last page.' })
  nextPageToken?: string;
}

/** The volume as the API shows it. */
export function toVolumeDto(volume: Volume, attachments: readonly Attachment[] = []): VolumeDto {
  const { id, name, sizeBytes, state, reason, nodeId } = volume;
  return {
    id,
    name,
    sizeBytes,
    state,
    reason,
    nodeId,
    attachments: attachments.filter((attachment) => attachment.volumeId === id).map(toAttachmentDto),
    createdAt: volume.createdAt.toISOString(),
    updatedAt: volume.updatedAt.toISOString(),
    deletedAt: volume.deletedAt?.toISOString(),
  };
}
