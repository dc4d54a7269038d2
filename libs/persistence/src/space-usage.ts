import type { SnapshotId, SpaceUsage, VolumeId } from '@cairn/domain';
import type { EntityManager } from 'typeorm';

/** What a node measured of one of its volumes and snapshots. */
export interface MeasuredUsage {
  id: VolumeId | SnapshotId;
  uniqueBytes: number;
  sharedBytes: number;
}

/** Keeps what was measured on those rows of the table that there are. */
export async function recordUsage(
  manager: EntityManager,
  table: 'volumes' | 'snapshots',
  usage: readonly MeasuredUsage[],
  measuredAt: string,
): Promise<void> {
  await manager.query(
    `UPDATE ${table} AS t SET unique_bytes = u.unique_bytes, shared_bytes = u.shared_bytes, measured_at = $4
     FROM unnest($1::text[], $2::int8[], $3::int8[]) AS u (id, unique_bytes, shared_bytes) WHERE t.id = u.id`,
    [
      usage.map(({ id }) => id),
      usage.map(({ uniqueBytes }) => uniqueBytes),
      usage.map(({ sharedBytes }) => sharedBytes),
      measuredAt,
    ],
  );
}

/** What was measured of a row, or `undefined` when nothing was yet. */
export function usageOf(row: {
  uniqueBytes: number | null;
  sharedBytes: number | null;
  measuredAt: Date | null;
}): SpaceUsage | undefined {
  const { uniqueBytes, sharedBytes, measuredAt } = row;
  if (uniqueBytes === null || sharedBytes === null || measuredAt === null) return undefined;
  return { uniqueBytes, sharedBytes, measuredAt };
}
