import type {
  ErrorCode,
  ModificationKind,
  ModificationState,
  NodeId,
  PoolId,
  ProjectId,
  SnapshotId,
  VolumeId,
  VolumeState,
} from '@cairn/domain';
import { Column, Entity, PrimaryColumn } from 'typeorm';
import { int8 } from '../int8.transformer.js';

/** One volume. */
@Entity('volumes')
export class VolumeEntity {
  @PrimaryColumn({ type: 'text' })
  id!: VolumeId;

  /** Order of insertion; what pages are cut by. */
  @Column({ type: 'int8', transformer: int8, insert: false, update: false })
  seq!: number;

  @Column({ name: 'project_id', type: 'text' })
  projectId!: ProjectId;

  @Column({ type: 'text', nullable: true })
  name!: string | null;

  @Column({ name: 'size_bytes', type: 'int8', transformer: int8 })
  sizeBytes!: number;

  @Column({ type: 'text' })
  state!: VolumeState;

  @Column({ name: 'reason_code', type: 'text', nullable: true })
  reasonCode!: ErrorCode | null;

  @Column({ name: 'reason_message', type: 'text', nullable: true })
  reasonMessage!: string | null;

  /** Not foreign keys: a volume outlives what it began as. */
  @Column({ name: 'source_snapshot_id', type: 'text', nullable: true })
  sourceSnapshotId!: SnapshotId | null;

  @Column({ name: 'source_volume_id', type: 'text', nullable: true })
  sourceVolumeId!: VolumeId | null;

  @Column({ name: 'modification_state', type: 'text', default: 'none' })
  modificationState!: ModificationState;

  @Column({ name: 'modification_kind', type: 'text', nullable: true })
  modificationKind!: ModificationKind | null;

  @Column({ name: 'modification_code', type: 'text', nullable: true })
  modificationCode!: ErrorCode | null;

  @Column({ name: 'modification_message', type: 'text', nullable: true })
  modificationMessage!: string | null;

  @Column({ type: 'int4', default: 0 })
  generation!: number;

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

  @Column({ name: 'deleted_at', type: 'timestamptz', nullable: true })
  deletedAt!: Date | null;
}
