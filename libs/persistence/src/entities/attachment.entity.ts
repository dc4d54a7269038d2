import type { AttachmentId, AttachmentState, ErrorCode, NodeId, ProjectId, VolumeId } from '@cairn/domain';
import { Column, Entity, PrimaryColumn } from 'typeorm';

/** One volume given to one guest. */
@Entity('attachments')
export class AttachmentEntity {
  @PrimaryColumn({ type: 'text' })
  id!: AttachmentId;

  @Column({ name: 'project_id', type: 'text' })
  projectId!: ProjectId;

  @Column({ name: 'volume_id', type: 'text' })
  volumeId!: VolumeId;

  @Column({ name: 'instance_id', type: 'text', nullable: true })
  instanceId!: string | null;

  @Column({ name: 'node_id', type: 'text', nullable: true })
  nodeId!: NodeId | null;

  @Column({ type: 'text' })
  state!: AttachmentState;

  @Column({ type: 'int4' })
  generation!: number;

  @Column({ name: 'read_only', type: 'bool' })
  readOnly!: boolean;

  @Column({ name: 'num_queues', type: 'int4' })
  numQueues!: number;

  /** Set together with `serial`, when the node serves the volume. */
  @Column({ name: 'socket_path', type: 'text', nullable: true })
  socketPath!: string | null;

  @Column({ type: 'text', nullable: true })
  serial!: string | null;

  @Column({ name: 'reason_code', type: 'text', nullable: true })
  reasonCode!: ErrorCode | null;

  @Column({ name: 'reason_message', type: 'text', nullable: true })
  reasonMessage!: string | null;

  @Column({ name: 'created_at', type: 'timestamptz', default: () => 'now()' })
  createdAt!: Date;

  @Column({ name: 'updated_at', type: 'timestamptz', default: () => 'now()' })
  updatedAt!: Date;

  @Column({ name: 'ended_at', type: 'timestamptz', nullable: true })
  endedAt!: Date | null;
}
