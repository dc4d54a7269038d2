import { DomainError, formatBytes, type Node, type NodeId, type Pool, type PoolId } from '@cairn/domain';

/** What is to be placed, and by which rules. */
export interface PlacementRequest {
  readonly sizeBytes: number;
  /** How many times its capacity a pool may promise. */
  readonly overcommitRatio: number;
  /** 1 for the first try; later tries turn to the next best, so that one bad pool cannot hold a volume up. */
  readonly attempt: number;
}

/** Where a volume goes. */
export interface Place {
  readonly nodeId: NodeId;
  readonly poolId: PoolId;
}

/** A pool this full takes no new volume: the promises it already made need the rest. */
const reservedFraction = 0.05;

/**
 * Chooses the ready pool with the most free space that may still promise the volume's size; one that is low on space
 * only when no other has room.
 *
 * Throws `node-unavailable` when no node is ready and `no-capacity` when none of them has room; both pass
 * by themselves when a node comes back or space is freed.
 */
export function chooseNode(nodes: readonly Node[], request: PlacementRequest): Place {
  const ready = nodes.filter(({ state }) => state === 'ready');
  const pools = ready.flatMap((node) => node.pools);
  if (pools.length === 0) {
    throw new DomainError('node-unavailable', {
      message: `No node is ready to take the volume (${nodes.length} known). Start a data plane, or wait for one.`,
    });
  }
  const roomy = pools.filter((pool) => hasRoom(pool, request)).sort(byFreeSpace);
  roomy.sort((a, b) => Number(isLow(a)) - Number(isLow(b)));
  const chosen = roomy[(request.attempt - 1) % roomy.length];
  if (chosen !== undefined) return { nodeId: chosen.nodeId, poolId: chosen.id };
  throw new DomainError('no-capacity', {
    message: `None of ${pools.length} ready pools has room for ${formatBytes(request.sizeBytes)}. Free space or add a node.`,
  });
}

function hasRoom(pool: Pool, { sizeBytes, overcommitRatio }: PlacementRequest): boolean {
  const promises = pool.provisionedBytes + sizeBytes <= pool.totalBytes * overcommitRatio;
  return promises && pool.freeBytes > pool.totalBytes * reservedFraction;
}

const isLow = ({ lowSpaceSince }: Pool): boolean => lowSpaceSince !== undefined;

function byFreeSpace(a: Pool, b: Pool): number {
  return b.freeBytes - a.freeBytes || a.provisionedBytes - b.provisionedBytes || (a.id < b.id ? -1 : 1);
}
