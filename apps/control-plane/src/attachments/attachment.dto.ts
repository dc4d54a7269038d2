import {
  attachmentStates,
  NUM_QUEUES_DEFAULT,
  NUM_QUEUES_MAX,
  NUM_QUEUES_MIN,
  type Attachment,
  type AttachmentState,
} from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { clientToken, TokenQuery } from '../http/params.js';
import { boolean, oneOf, Optional, text, wholeNumber } from '../http/validation.js';
import { OperationDto, ReasonDto } from '../operations/operation.dto.js';

/** The body of an attach. */
export class AttachVolumeDto {
  @ApiPropertyOptional({
    description: 'Your own name for the guest; kept and shown, not interpreted.',
    maxLength: 255,
  })
  @Optional(text(1, 255))
  instanceId?: string;

  @ApiPropertyOptional({ description: 'The guest may only read.', default: false })
  @Optional(boolean)
  readOnly?: boolean;

  @ApiPropertyOptional({ default: NUM_QUEUES_DEFAULT, minimum: NUM_QUEUES_MIN, maximum: NUM_QUEUES_MAX })
  @Optional(wholeNumber(NUM_QUEUES_MIN, NUM_QUEUES_MAX))
  numQueues?: number;

  @ApiPropertyOptional({ description: 'The same as the Idempotency-Key header.', maxLength: 64 })
  @Optional(clientToken)
  clientToken?: string;
}

/** The query of a detach. */
export class DetachQuery extends TokenQuery {
  @ApiPropertyOptional({
    description: 'true cuts a guest that still uses the volume; it loses what it has not flushed.',
    enum: ['true', 'false'],
  })
  @Optional(oneOf(['true', 'false']))
  force?: 'true' | 'false';
}

/** How a virtual machine reaches the volume. */
export class AttachmentConnectionDto {
  @ApiProperty({ enum: ['vhost-user-blk'] })
  type!: 'vhost-user-blk';

  @ApiProperty({ description: 'The unix socket on the node.' })
  socketPath!: string;

  @ApiProperty({
    description:
      'The disk serial that the guest sees: the volume id, without the dash where that has 17 digits.',
  })
  serial!: string;

  @ApiProperty()
  numQueues!: number;
}

/** A volume given to one guest. */
export class AttachmentDto {
  @ApiProperty({ example: 'att-0123456789abcdef0' })
  id!: string;

  @ApiProperty({ example: 'vol-0123456789abcdef0' })
  volumeId!: string;

  @ApiPropertyOptional()
  instanceId?: string;

  @ApiPropertyOptional({ example: 'node-0123456789abcdef0' })
  nodeId?: string;

  @ApiProperty({ enum: attachmentStates })
  state!: AttachmentState;

  @ApiProperty({ description: 'Grows with every attachment of the volume; a node refuses an older one.' })
  generation!: number;

  @ApiProperty()
  readOnly!: boolean;

  @ApiPropertyOptional({
    type: AttachmentConnectionDto,
    description: 'Set while the node serves the volume.',
  })
  connection?: AttachmentConnectionDto;

  @ApiPropertyOptional({
    type: ReasonDto,
    description: 'Why it is error or busy, or why the last detach gave up.',
  })
  reason?: ReasonDto;

  @ApiProperty({ format: 'date-time' })
  createdAt!: string;

  @ApiProperty({ format: 'date-time' })
  updatedAt!: string;

  @ApiPropertyOptional({ format: 'date-time' })
  endedAt?: string;
}

/** The answer to an attach. */
export class AttachAcceptedDto {
  @ApiProperty({ type: OperationDto })
  operation!: OperationDto;

  @ApiPropertyOptional({
    type: AttachmentDto,
    description: 'Absent when a repeated request finds it forgotten.',
  })
  attachment?: AttachmentDto;
}

/** The answer to a detach. */
export class DetachAcceptedDto {
  @ApiPropertyOptional({
    type: OperationDto,
    description: 'Absent when the attachment never came about (`error`).',
  })
  operation?: OperationDto;

  @ApiPropertyOptional({
    type: AttachmentDto,
    description: 'Absent when a repeated request finds it forgotten.',
  })
  attachment?: AttachmentDto;
}

/** Every attachment a volume has had. */
export class AttachmentListDto {
  @ApiProperty({ type: [AttachmentDto] })
  attachments!: AttachmentDto[];
}

/** The attachment as the API shows it. */
export function toAttachmentDto(attachment: Attachment): AttachmentDto {
  const { id, volumeId, instanceId, nodeId, state, generation, readOnly, connection, reason } = attachment;
  return {
    id,
    volumeId,
    instanceId,
    nodeId,
    state,
    generation,
    readOnly,
    connection,
    reason,
    createdAt: attachment.createdAt.toISOString(),
    updatedAt: attachment.updatedAt.toISOString(),
    endedAt: attachment.endedAt?.toISOString(),
  };
}
