import { DomainError, type Snapshot, type SnapshotId } from '@cairn/domain';
import type { UnitOfWork } from '@cairn/persistence';

/** The snapshot an operation acts on. Throws `snapshot-not-found`; rows of unfinished operations are never purged. */
export async function snapshotOf(
  unitOfWork: UnitOfWork,
  { target }: { target: { snapshotId: SnapshotId } },
): Promise<Snapshot> {
  const [snapshot] = await unitOfWork.read(({ snapshots }) => snapshots.listById([target.snapshotId]));
  if (snapshot !== undefined) return snapshot;
  throw new DomainError('snapshot-not-found', { message: `There is no snapshot ${target.snapshotId}.` });
}
