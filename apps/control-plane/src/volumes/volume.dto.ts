import {
  isId,
  VOLUME_SIZE_MAX,
  VOLUME_SIZE_MIN,
  VOLUME_SIZE_MULTIPLE,
  volumeSizeFault,
  volumeStates,
  type Attachment,
  type SnapshotId,
  type Volume,
  type VolumeId,
  type VolumeState,
} from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { AttachmentDto, toAttachmentDto } from '../attachments/attachment.dto.js';
import { CommaSeparated, PageQuery } from '../http/paging.js';
import { clientToken } from '../http/params.js';
import { Optional, text } from '../http/validation.js';
import { OperationDto, ReasonDto } from '../operations/operation.dto.js';
import { ModificationDto } from './modification.dto.js';
import { toUsageDto, UsageDto } from './usage.dto.js';

/** The body of a create. */
export class CreateVolumeDto {
  @ApiPropertyOptional({
    example: 1_073_741_824,
    description: `Bytes; a multiple of ${VOLUME_SIZE_MULTIPLE}. Of a source, its own or more, and that without it.`,
    minimum: VOLUME_SIZE_MIN,
    maximum: VOLUME_SIZE_MAX,
  })
  @Optional(volumeSizeFault)
  sizeBytes?: number;

  @ApiPropertyOptional({ description: 'It begins as this snapshot.', example: 'snap-0123456789abcdef0' })
  @Optional((value) => (isId('snap', value) ? undefined : 'must be a snapshot id'))
  snapshotId?: SnapshotId;

  @ApiPropertyOptional({ description: 'It begins as this volume is now.', example: 'vol-0123456789abcdef0' })
  @Optional((value) => (isId('vol', value) ? undefined : 'must be a volume id'))
  sourceVolumeId?: VolumeId;

  @ApiPropertyOptional({ description: 'Yours; need not be unique.', maxLength: 255 })
  @Optional(text(1, 255))
  name?: string;

  @ApiPropertyOptional({ description: 'The same as the Idempotency-Key header.', maxLength: 64 })
  @Optional(clientToken)
  clientToken?: string;
}

/** The query of a list. */
export class ListVolumesQuery extends PageQuery {
  @ApiPropertyOptional({
    type: String,
    description: `Only these states, separated by commas: ${volumeStates.join(', ')}. Without it, all but deleted.`,
    example: 'available,in-use',
  })
  @CommaSeparated(volumeStates)
  state?: VolumeState[];
}

/** A volume. */
export class VolumeDto {
  @ApiProperty({ example: 'vol-0123456789abcdef0' })
  id!: string;

  @ApiPropertyOptional()
  name?: string;

  @ApiProperty({ example: 1_073_741_824 })
  sizeBytes!: number;

  @ApiProperty({ enum: volumeStates })
  state!: VolumeState;

  @ApiPropertyOptional({ type: ReasonDto, description: 'Why it is in error.' })
  reason?: ReasonDto;

  @ApiPropertyOptional({ description: 'The snapshot that it began as.', example: 'snap-0123456789abcdef0' })
  snapshotId?: string;

  @ApiPropertyOptional({ description: 'The volume that it began as.', example: 'vol-0123456789abcdef0' })
  sourceVolumeId?: string;

  @ApiPropertyOptional({ type: ModificationDto, description: 'The change it is in, or was in last.' })
  modification?: ModificationDto;

  @ApiPropertyOptional({ description: 'The node that holds it.', example: 'node-0123456789abcdef0' })
  nodeId?: string;

  @ApiProperty({ type: [AttachmentDto], description: 'The attachment that holds it now, if any.' })
  attachments!: AttachmentDto[];

  @ApiPropertyOptional({ type: UsageDto, description: 'As its node measured last.' })
  usage?: UsageDto;

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
  const { id, name, sizeBytes, state, reason, source, nodeId } = volume;
  const { kind, ...modification } = volume.modification;
  return {
    id,
    name,
    sizeBytes,
    state,
    reason,
    snapshotId: source?.snapshotId,
    sourceVolumeId: source?.volumeId,
    modification: kind && { kind, ...modification },
    nodeId,
    attachments: attachments.filter((attachment) => attachment.volumeId === id).map(toAttachmentDto),
    usage: toUsageDto(volume.usage),
    createdAt: volume.createdAt.toISOString(),
    updatedAt: volume.updatedAt.toISOString(),
    deletedAt: volume.deletedAt?.toISOString(),
  };
}
