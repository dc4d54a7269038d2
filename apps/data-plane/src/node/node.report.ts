import type { AgentNode } from '@cairn/agent';
import type { NodeId, PoolId } from '@cairn/domain';
import type { VolumeStore } from '@cairn/storage';
import type { ExportRegistry } from '../exports/export.registry.js';
import { isLowOnSpace } from './pool-space.js';

/** What a report is made of. */
export interface NodeReportSources {
  readonly nodeId: NodeId;
  readonly poolId: PoolId;
  readonly nodeName: string;
  readonly version: string;
  readonly poolDirectory: string;
  readonly pool: Pick<VolumeStore, 'list' | 'capacity' | 'abilities'>;
  /** Below so much free space, of the whole, the pool is said to be low on it. */
  readonly lowSpacePercent: number;
  readonly registry: Pick<ExportRegistry, 'listExports'>;
}

/** Describes the node as it is now; the agent API and the heartbeat say the same. */
export class NodeReport {
  constructor(private readonly sources: NodeReportSources) {}

  /** Throws when the pool's file system or the reactor does not answer. */
  async describe(): Promise<AgentNode> {
    const { nodeId, poolId, nodeName, version, poolDirectory, pool, registry, lowSpacePercent } =
      this.sources;
    const { reflink, directMemoryAlignment, directOffsetAlignment, fsync } = pool.abilities;
    const [capacity, exports] = await Promise.all([pool.capacity(), registry.listExports()]);
    return {
      id: nodeId,
      name: nodeName,
      version,
      pools: [
        {
          id: poolId,
          directory: poolDirectory,
          ...capacity,
          volumes: pool.list().length,
          lowSpace: isLowOnSpace(capacity, lowSpacePercent),
          fileSystem: { reflink, directMemoryAlignment, directOffsetAlignment, fsync },
        },
      ],
      exports: {
        total: exports.length,
        connected: exports.filter(({ state }) => state === 'connected').length,
        failed: exports.filter(({ state }) => state === 'error').length,
      },
    };
  }
}
