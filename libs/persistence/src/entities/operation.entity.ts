import type {
  AttachmentId,
  ErrorCode,
  GroupId,
  Operation,
  OperationId,
  OperationKind,
  OperationState,
  ProjectId,
  SnapshotId,
  VolumeId,
} from '@cairn/domain';
import { Column, Entity, PrimaryColumn } from 'typeorm';

/** One mutation on its way. */
@Entity('operations')
export class OperationEntity {
  @PrimaryColumn({ type: 'text' })
  id!: OperationId;

  @Column({ name: 'project_id', type: 'text' })
  projectId!: ProjectId;

  @Column({ type: 'text' })
  kind!: OperationKind;

  @Column({ type: 'jsonb' })
  params!: Operation['params'];

  /** Not a foreign key: the record of an operation outlives its volume. */
  @Column({ name: 'volume_id', type: 'text', nullable: true })
  volumeId!: VolumeId | null;

  @Column({ name: 'attachment_id', type: 'text', nullable: true })
  attachmentId!: AttachmentId | null;

  /** Not a foreign key either. */
  @Column({ name: 'snapshot_id', type: 'text', nullable: true })
  snapshotId!: SnapshotId | null;

  @Column({ name: 'group_id', type: 'text', nullable: true })
  groupId!: GroupId | null;

  @Column({ name: 'client_token', type: 'text', nullable: true })
  clientToken!: string | null;

  @Column({ name: 'request_digest', type: 'text' })
  requestDigest!: string;

  @Column({ type: 'text' })
  state!: OperationState;

  @Column({ type: 'int2', default: 0 })
  progress!: number;

  @Column({ type: 'int4', default: 0 })
  attempts!: number;

  @Column({ name: 'error_code', type: 'text', nullable: true })
  errorCode!: ErrorCode | null;

  @Column({ name: 'error_message', type: 'text', nullable: true })
  errorMessage!: string | null;

  @Column({ type: 'timestamptz' })
  deadline!: Date;

  /** A retry is not claimed before this. */
  @Column({ name: 'not_before', type: 'timestamptz', default: () => 'now()' })
  notBefore!: Date;

  /** When the sweeper should look, if the operation is still not finished then. */
  @Column({ name: 'sweep_at', type: 'timestamptz' })
  sweepAt!: Date;

  @Column({ name: 'worker_id', type: 'text', nullable: true })
  workerId!: string | null;

  @Column({ name: 'lease_until', type: 'timestamptz', nullable: true })
  leaseUntil!: Date | null;

  @Column({ name: 'created_at', type: 'timestamptz', default: () => 'now()' })
  createdAt!: Date;

  @Column({ name: 'updated_at', type: 'timestamptz', default: () => 'now()' })
  updatedAt!: Date;

  @Column({ name: 'finished_at', type: 'timestamptz', nullable: true })
  finishedAt!: Date | null;
}
