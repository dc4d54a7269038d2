import type { NodeId, NodeState, PoolId } from '@cairn/domain';
import { Column, Entity, PrimaryColumn } from 'typeorm';
import { int8 } from '../int8.transformer.js';

/** A host, as its heartbeats tell. */
@Entity('nodes')
export class NodeEntity {
  @PrimaryColumn({ type: 'text' })
  id!: NodeId;

  @Column({ type: 'text' })
  name!: string;

  @Column({ name: 'agent_url', type: 'text' })
  agentUrl!: string;

  @Column({ type: 'text' })
  version!: string;

  @Column({ type: 'text' })
  state!: NodeState;

  @Column({ type: 'int4' })
  exports!: number;

  @Column({ name: 'connected_exports', type: 'int4' })
  connectedExports!: number;

  @Column({ name: 'last_heartbeat_at', type: 'timestamptz' })
  lastHeartbeatAt!: Date;

  /** When a worker last set out to compare it with the rows. */
  @Column({ name: 'inventory_at', type: 'timestamptz', nullable: true })
  inventoryAt!: Date | null;

  @Column({ name: 'created_at', type: 'timestamptz', default: () => 'now()' })
  createdAt!: Date;
}

/** A pool, as its node's heartbeats tell. */
@Entity('pools')
export class PoolEntity {
  @PrimaryColumn({ type: 'text' })
  id!: PoolId;

  @Column({ name: 'node_id', type: 'text' })
  nodeId!: NodeId;

  @Column({ type: 'text' })
  directory!: string;

  @Column({ name: 'total_bytes', type: 'int8', transformer: int8 })
  totalBytes!: number;

  @Column({ name: 'free_bytes', type: 'int8', transformer: int8 })
  freeBytes!: number;

  @Column({ name: 'provisioned_bytes', type: 'int8', transformer: int8 })
  provisionedBytes!: number;

  @Column({ type: 'int4' })
  volumes!: number;

  /** When a heartbeat first said that it is low on space, as each has since. */
  @Column({ name: 'low_space_since', type: 'timestamptz', nullable: true })
  lowSpaceSince!: Date | null;

  @Column({ name: 'updated_at', type: 'timestamptz', default: () => 'now()' })
  updatedAt!: Date;
}
