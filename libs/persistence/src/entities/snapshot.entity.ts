import type {
  ErrorCode,
  GroupId,
  NodeId,
  PoolId,
  ProjectId,
  SnapshotId,
  SnapshotState,
  Tags,
  VolumeId,
  WritingState,
} from '@cairn/domain';
import { Column, Entity, PrimaryColumn } from 'typeorm';
import { int8 } from '../int8.transformer.js';

/** One snapshot. */
@Entity('snapshots')
export class SnapshotEntity {
  @PrimaryColumn({ type: 'text' })
  id!: SnapshotId;

  /** Order of insertion; what pages are cut by. */
  @Column({ type: 'int8', transformer: int8, insert: false, update: false })
  seq!: number;

  @Column({ name: 'project_id', type: 'text' })
  projectId!: ProjectId;

  /** Not a foreign key: a snapshot outlives its volume. Null when it was written from blocks. */
  @Column({ name: 'volume_id', type: 'text', nullable: true })
  volumeId!: VolumeId | null;

  /** Not a foreign key either. */
  @Column({ name: 'parent_snapshot_id', type: 'text', nullable: true })
  parentSnapshotId!: SnapshotId | null;

  /** Set while it is written from blocks, which is only while it is pending. */
  @Column({ type: 'text', nullable: true })
  writing!: WritingState | null;

  @Column({ type: 'int2', nullable: true })
  progress!: number | null;

  @Column({ name: 'group_id', type: 'text', nullable: true })
  groupId!: GroupId | null;

  @Column({ type: 'text', nullable: true })
  name!: string | null;

  @Column({ type: 'text' })
  description!: string;

  @Column({ type: 'jsonb' })
  tags!: Tags;

  @Column({ name: 'size_bytes', type: 'int8', transformer: int8 })
  sizeBytes!: number;

  @Column({ type: 'text' })
  state!: SnapshotState;

  @Column({ name: 'reason_code', type: 'text', nullable: true })
  reasonCode!: ErrorCode | null;

  @Column({ name: 'reason_message', type: 'text', nullable: true })
  reasonMessage!: string | null;

  @Column({ name: 'node_id', type: 'text', nullable: true })
  nodeId!: NodeId | null;

  @Column({ name: 'pool_id', type: 'text', nullable: true })
  poolId!: PoolId | null;

  /** Set together, once its node has measured. */
  @Column({ name: 'unique_bytes', type: 'int8', transformer: int8, nullable: true })
  uniqueBytes!: number | null;

  @Column({ name: 'shared_bytes', type: 'int8', transformer: int8, nullable: true })
  sharedBytes!: number | null;

  @Column({ name: 'measured_at', type: 'timestamptz', nullable: true })
  measuredAt!: Date | null;

  @Column({ name: 'created_at', type: 'timestamptz', default: () => 'now()' })
  createdAt!: Date;

  @Column({ name: 'updated_at', type: 'timestamptz', default: () => 'now()' })
  updatedAt!: Date;

  @Column({ name: 'completed_at', type: 'timestamptz', nullable: true })
  completedAt!: Date | null;

  @Column({ name: 'deleted_at', type: 'timestamptz', nullable: true })
  deletedAt!: Date | null;
}
