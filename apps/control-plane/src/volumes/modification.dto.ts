import {
  isId,
  modificationKinds,
  modificationStates,
  VOLUME_SIZE_MAX,
  VOLUME_SIZE_MIN,
  volumeSizeFault,
  type ModificationKind,
  type ModificationState,
  type SnapshotId,
} from '@cairn/domain';
import { ApiProperty, ApiPropertyOptional } from '@nestjs/swagger';
import { clientToken } from '../http/params.js';
import { Optional, Required } from '../http/validation.js';
import { ReasonDto } from '../operations/operation.dto.js';

/** The body of a resize. */
export class ResizeVolumeDto {
  @ApiProperty({
    example: 2_147_483_648,
    description: 'Bytes; not less than it has.',
    minimum: VOLUME_SIZE_MIN,
    maximum: VOLUME_SIZE_MAX,
  })
  @Required(volumeSizeFault)
  sizeBytes!: number;

  @ApiPropertyOptional({ description: 'The same as the Idempotency-Key header.', maxLength: 64 })
  @Optional(clientToken)
  clientToken?: string;
}

/** The body of a revert. */
export class RevertVolumeDto {
  @ApiProperty({ example: 'snap-0123456789abcdef0', description: 'A snapshot of this very volume.' })
  @Required((value) => (isId('snap', value) ? undefined : 'must be a snapshot id'))
  snapshotId!: SnapshotId;

  @ApiPropertyOptional({ description: 'The same as the Idempotency-Key header.', maxLength: 64 })
  @Optional(clientToken)
  clientToken?: string;
}

/** The change that a volume is in, or the last one that it was in. */
export class ModificationDto {
  @ApiProperty({ enum: modificationKinds })
  kind!: ModificationKind;

  @ApiProperty({ enum: modificationStates.filter((state) => state !== 'none') })
  state!: ModificationState;

  @ApiPropertyOptional({ type: ReasonDto, description: 'Why it failed.' })
  reason?: ReasonDto;
}
