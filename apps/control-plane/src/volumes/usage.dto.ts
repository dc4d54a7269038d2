import type { SpaceUsage } from '@cairn/domain';
import { ApiProperty } from '@nestjs/swagger';

/** Whose bytes it holds. */
export class UsageDto {
  @ApiProperty({ description: 'What goes when this alone is deleted.' })
  uniqueBytes!: number;

  @ApiProperty({ description: 'What it has together with others; these count for each of them.' })
  sharedBytes!: number;

  @ApiProperty({ format: 'date-time' })
  measuredAt!: string;
}

/** The usage as the API shows it; `undefined` before it was measured. */
export function toUsageDto(usage: SpaceUsage | undefined): UsageDto | undefined {
  return usage && { ...usage, measuredAt: usage.measuredAt.toISOString() };
}
