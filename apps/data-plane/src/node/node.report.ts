import type { AgentNode } from '@cairn/agent';
import type { NodeId, PoolId } from '@cairn/domain';
import type { ExportRegistry, VolumePool } from '../exports/export.registry.js';

/** What a report is made of. */
export interface NodeReportSources {
  readonly nodeId: NodeId;
  readonly poolId: PoolId;
  readonly nodeName: string;
  readonly version: string;
  readonly poolDirectory: string;
  readonly pool: Pick<VolumePool, 'list' | 'capacity'>;
  readonly registry: Pick<ExportRegistry, 'listExports'>;
}

/** Describes the node as it is now; the agent API and the heartbeat say the same. */
export class NodeReport {
  constructor(private readonly sources: NodeReportSources) {}

  /** Throws when the pool's file system or the reactor does not answer. */
  async describe(): Promise<AgentNode> {
    const { nodeId, poolId, nodeName, version, poolDirectory, pool, registry } = this.sources;
    const [capacity, exports] = await Promise.all([pool.capacity(), registry.listExports()]);
    return {
      id: nodeId,
      name: nodeName,
      version,
      pools: [{ id: poolId, directory: poolDirectory, ...capacity, volumes: pool.list().length }],
      exports: {
        total: exports.length,
        connected: exports.filter(({ state }) => state === 'connected').length,
        failed: exports.filter(({ state }) => state === 'error').length,
      },
    };
  }
}
