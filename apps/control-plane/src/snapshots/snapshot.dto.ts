import {
  isId,
  SNAPSHOT_DESCRIPTION_MAX,
  SNAPSHOT_GROUP_MAX,
  snapshotStates,
  TAG_KEY_MAX,
  TAG_VALUE_MAX,
  TAGS_MAX,
  writingStates,
  type GroupId,
  type Snapshot,
  type SnapshotState,
  type Tags,
  type VolumeId,
  type WritingState,
} from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { CommaSeparated, PageQuery } from '../http/paging.js';
import { clientToken } from '../http/params.js';
import { Optional, Required, text, type Check } from '../http/validation.js';
import { OperationDto, ReasonDto } from '../operations/operation.dto.js';
import { toUsageDto, UsageDto } from '../volumes/usage.dto.js';

const tags: Check = (value) => {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return 'must be an object of texts';
  const entries = Object.entries(value);
  if (entries.length > TAGS_MAX) return `must not have more than ${TAGS_MAX} tags`;
  const [key, tagValue] = [text(1, TAG_KEY_MAX), text(0, TAG_VALUE_MAX)];
  const odd = entries.find(([name, each]) => key(name) !== undefined || tagValue(each) !== undefined);
  if (odd === undefined) return undefined;
  return `must have keys of 1 to ${TAG_KEY_MAX} and texts of at most ${TAG_VALUE_MAX} printable characters`;
};

const volumeIds: Check = (value) =>
  Array.isArray(value) &&
  value.length >= 1 &&
  value.length <= SNAPSHOT_GROUP_MAX &&
  new Set(value).size === value.length &&
  value.every((each) => isId('vol', each))
    ? undefined
    : `must be a list of 1 to ${SNAPSHOT_GROUP_MAX} different volume ids`;

/** The body of a snapshot. */
export class CreateSnapshotDto {
  @ApiPropertyOptional({ description: 'Yours; need not be unique.', maxLength: 255 })
  @Optional(text(1, 255))
  name?: string;

  @ApiPropertyOptional({ maxLength: SNAPSHOT_DESCRIPTION_MAX })
  @Optional(text(0, SNAPSHOT_DESCRIPTION_MAX))
  description?: string;

  @ApiPropertyOptional({
    description: `At most ${TAGS_MAX}.`,
    example: { keep: 'a week' },
    type: 'object',
    additionalProperties: { type: 'string' },
  })
  @Optional(tags)
  tags?: Tags;

  @ApiPropertyOptional({ description: 'The same as the Idempotency-Key header.', maxLength: 64 })
  @Optional(clientToken)
  clientToken?: string;
}

/** The body of a group of snapshots; name, description and tags are those of each. */
export class CreateSnapshotGroupDto extends CreateSnapshotDto {
  @ApiProperty({
    type: [String],
    description: 'Volumes of one node.',
    example: ['vol-0123456789abcdef0', 'vol-fedcba98765432100'],
    maxItems: SNAPSHOT_GROUP_MAX,
  })
  @Required(volumeIds)
  volumeIds!: VolumeId[];
}

/** The query of a list. */
export class ListSnapshotsQuery extends PageQuery {
  @ApiPropertyOptional({ description: 'Only those of this volume.', example: 'vol-0123456789abcdef0' })
  @Optional((value) => (isId('vol', value) ? undefined : 'must be a volume id'))
  volumeId?: VolumeId;

  @ApiPropertyOptional({ description: 'Only those of this group.', example: 'grp-0123456789abcdef0' })
  @Optional((value) => (isId('grp', value) ? undefined : 'must be a group id'))
  groupId?: GroupId;

  @ApiPropertyOptional({
    type: String,
    description: `Only these states, separated by commas: ${snapshotStates.join(', ')}. Without it, all but deleted.`,
    example: 'completed',
  })
  @CommaSeparated(snapshotStates)
  state?: SnapshotState[];
}

/** A snapshot. */
export class SnapshotDto {
  @ApiProperty({ example: 'snap-0123456789abcdef0' })
  id!: string;

  @ApiPropertyOptional({
    example: 'vol-0123456789abcdef0',
    description: 'What it was taken of, which may be gone; absent when it was written from blocks.',
  })
  volumeId?: string;

  @ApiPropertyOptional({ description: 'What it began as when it was written from blocks; may be gone.' })
  parentSnapshotId?: string;

  @ApiPropertyOptional({
    enum: writingStates,
    description: 'While it is written from blocks, and pending: blocks are put when it is open.',
  })
  writing?: WritingState;

  @ApiPropertyOptional({ description: 'What was taken at the same moment has the same group.' })
  groupId?: string;

  @ApiPropertyOptional()
  name?: string;

  @ApiProperty()
  description!: string;

  @ApiProperty({ type: 'object', additionalProperties: { type: 'string' } })
  tags!: Tags;

  @ApiProperty({ example: 1_073_741_824, description: 'The size of the volume at that moment.' })
  sizeBytes!: number;

  @ApiProperty({ enum: snapshotStates })
  state!: SnapshotState;

  @ApiProperty({
    description: 'Percent; of one that is written from blocks, as whoever puts them says.',
    minimum: 0,
    maximum: 100,
  })
  progress!: number;

  @ApiPropertyOptional({ type: ReasonDto, description: 'Why it is in error.' })
  reason?: ReasonDto;

  @ApiPropertyOptional({
    description: 'The node that holds it; absent until it has a place.',
    example: 'node-0123456789abcdef0',
  })
  nodeId?: string;

  @ApiPropertyOptional({ type: UsageDto, description: 'As its node measured last.' })
  usage?: UsageDto;

  @ApiProperty({ format: 'date-time' })
  createdAt!: string;

  @ApiProperty({ format: 'date-time' })
  updatedAt!: string;

  @ApiPropertyOptional({ format: 'date-time' })
  completedAt?: string;

  @ApiPropertyOptional({ format: 'date-time' })
  deletedAt?: string;
}

/** The answer to a create or delete. */
export class SnapshotAcceptedDto {
  @ApiProperty({ type: OperationDto })
  operation!: OperationDto;

  @ApiPropertyOptional({
    type: SnapshotDto,
    description: 'Absent when a repeated request finds it forgotten.',
  })
  snapshot?: SnapshotDto;
}

/** The answer to a group. */
export class SnapshotGroupAcceptedDto {
  @ApiProperty({ type: OperationDto, description: 'One for all; its target names the group.' })
  operation!: OperationDto;

  @ApiProperty({ type: [SnapshotDto], description: 'In the order of the volumes.' })
  snapshots!: SnapshotDto[];
}

/** One page of snapshots. */
export class SnapshotListDto {
  @ApiProperty({ type: [SnapshotDto], description: 'Newest first.' })
  snapshots!: SnapshotDto[];

  @ApiPropertyOptional({ description: 'Where the next page begins; absent on the last page.' })
  nextPageToken?: string;
}

/** The snapshot as the API shows it. */
export function toSnapshotDto(snapshot: Snapshot): SnapshotDto {
  const {
    id,
    volumeId,
    parentSnapshotId,
    writing,
    groupId,
    name,
    description,
    tags: ownTags,
    sizeBytes,
    state,
    reason,
    nodeId,
  } = snapshot;
  return {
    id,
    volumeId,
    parentSnapshotId,
    writing,
    groupId,
    name,
    description,
    tags: ownTags,
    sizeBytes,
    state,
    // Taking one of a volume is one step, whatever its size.
    progress: snapshot.completedAt === undefined ? (snapshot.progress ?? 0) : 100,
    reason,
    nodeId,
    usage: toUsageDto(snapshot.usage),
    createdAt: snapshot.createdAt.toISOString(),
    updatedAt: snapshot.updatedAt.toISOString(),
    completedAt: snapshot.completedAt?.toISOString(),
    deletedAt: snapshot.deletedAt?.toISOString(),
  };
}
