import {
  NODE_SILENCE_MS,
  DomainError,
  type Heartbeat,
  type Node,
  type NodeId,
  type Pool,
  type PoolReport,
  type SpaceChange,
} from '@cairn/domain';
import type { EntityManager } from 'typeorm';
import { NodeEntity, PoolEntity } from '../entities/node.entity.js';
import { returning } from '../hydrate.js';

/** Nodes and pools, as heartbeats tell. */
export class NodeRepository {
  constructor(private readonly manager: EntityManager) {}

  /**
   * Takes in a heartbeat: the node is `ready` from now on and its pools are those it named. Run it in a transaction.
   * Tells which pools have become low on space, or are not any more: each change once, whoever takes in the heartbeats.
   */
  async heartbeat(beat: Heartbeat): Promise<SpaceChange[]> {
    await this.manager.query(
      `INSERT INTO nodes (id, name, agent_url, version, state, exports, connected_exports, last_heartbeat_at)
       VALUES ($1, $2, $3, $4, 'ready', $5, $6, now())
       ON CONFLICT (id) DO UPDATE SET name = $2, agent_url = $3, version = $4, state = 'ready',
         exports = $5, connected_exports = $6, last_heartbeat_at = now()`,
      [beat.id, beat.name, beat.agentUrl, beat.version, beat.exports, beat.connectedExports],
    );
    const changes: SpaceChange[] = [];
    for (const pool of beat.pools) {
      const wasLow = await this.takeIn(beat.id, pool);
      if (wasLow !== pool.lowSpace) changes.push({ ...pool, became: pool.lowSpace ? 'low' : 'enough' });
    }
    await this.manager.query('DELETE FROM pools WHERE node_id = $1 AND NOT (id = ANY ($2))', [
      beat.id,
      beat.pools.map((pool) => pool.id),
    ]);
    return changes;
  }

  /** Takes in what a heartbeat says of a pool, and tells whether it was low on space before. */
  private async takeIn(nodeId: NodeId, pool: PoolReport): Promise<boolean> {
    const [before] = await this.manager.find(PoolEntity, {
      where: { id: pool.id },
      lock: { mode: 'pessimistic_write' },
    });
    // A pool that now hangs on another host moves with it.
    await this.manager.query(
      `INSERT INTO pools (id, node_id, directory, total_bytes, free_bytes, provisioned_bytes, volumes, updated_at,
         low_space_since)
       VALUES ($1, $2, $3, $4, $5, $6, $7, now(), CASE WHEN $8 THEN now() END)
       ON CONFLICT (id) DO UPDATE SET node_id = $2, directory = $3, total_bytes = $4, free_bytes = $5,
         provisioned_bytes = $6, volumes = $7, updated_at = now(),
         low_space_since = CASE WHEN $8 THEN coalesce(pools.low_space_since, now()) END`,
      [
        pool.id,
        nodeId,
        pool.directory,
        pool.totalBytes,
        pool.freeBytes,
        pool.provisionedBytes,
        pool.volumes,
        pool.lowSpace,
      ],
    );
    return before !== undefined && before.lowSpaceSince !== null;
  }

  /** Every node with its pools, by name. */
  async list(): Promise<Node[]> {
    const nodes = await this.manager.find(NodeEntity, { order: { name: 'ASC', id: 'ASC' } });
    const pools = await this.manager.find(PoolEntity, { order: { id: 'ASC' } });
    return nodes.map((node) => toNode(node, pools));
  }

  /** One node with its pools, or `undefined`. */
  async find(id: NodeId): Promise<Node | undefined> {
    const node = await this.manager.findOneBy(NodeEntity, { id });
    if (!node) return undefined;
    return toNode(node, await this.manager.findBy(PoolEntity, { nodeId: id }));
  }

  /** One node with its pools. Throws `node-not-found`. */
  async get(id: NodeId): Promise<Node> {
    const node = await this.find(id);
    if (node) return node;
    throw new DomainError('node-not-found', { message: `There is no node ${id}.` });
  }

  /** The ready nodes that nobody has compared with the rows for so long; each is given out to one caller. */
  async claimInventory(intervalMs: number): Promise<NodeId[]> {
    const rows = await returning(
      this.manager,
      NodeEntity,
      `UPDATE nodes SET inventory_at = now() WHERE state = 'ready'
         AND coalesce(inventory_at < now() - $1 * interval '1 millisecond', true) RETURNING *`,
      [intervalMs],
    );
    return rows.map(({ id }) => id);
  }

  /** Marks `down` the nodes not heard of for too long, and returns those that were `ready` until now. */
  async markSilentDown(
    silenceMs = NODE_SILENCE_MS,
  ): Promise<Pick<Node, 'id' | 'name' | 'lastHeartbeatAt'>[]> {
    const rows = await returning(
      this.manager,
      NodeEntity,
      `UPDATE nodes SET state = 'down'
       WHERE state = 'ready' AND last_heartbeat_at < now() - $1 * interval '1 millisecond' RETURNING *`,
      [silenceMs],
    );
    return rows.map(({ id, name, lastHeartbeatAt }) => ({ id, name, lastHeartbeatAt }));
  }
}

function toNode(row: NodeEntity, pools: readonly PoolEntity[]): Node {
  return {
    id: row.id,
    name: row.name,
    agentUrl: row.agentUrl,
    version: row.version,
    state: row.state,
    exports: row.exports,
    connectedExports: row.connectedExports,
    lastHeartbeatAt: row.lastHeartbeatAt,
    createdAt: row.createdAt,
    pools: pools.filter((pool) => pool.nodeId === row.id).map(toPool),
  };
}

function toPool(row: PoolEntity): Pool {
  const { id, nodeId, directory, totalBytes, freeBytes, provisionedBytes, volumes, lowSpaceSince } = row;
  const pool = { id, nodeId, directory, totalBytes, freeBytes, provisionedBytes, volumes };
  return lowSpaceSince === null ? pool : { ...pool, lowSpaceSince };
}
