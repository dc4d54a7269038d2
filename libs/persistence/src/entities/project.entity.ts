import type { KeyId, ProjectId } from '@cairn/domain';
import { Column, Entity, PrimaryColumn } from 'typeorm';

/** The owner of volumes; what one API key may see. */
@Entity('projects')
export class ProjectEntity {
  @PrimaryColumn({ type: 'text' })
  id!: ProjectId;

  @Column({ type: 'text', unique: true })
  name!: string;

  @Column({ name: 'created_at', type: 'timestamptz', default: () => 'now()' })
  createdAt!: Date;
}

/** An API key, without its secret: only the SHA-256 of it is kept. */
@Entity('api_keys')
export class ApiKeyEntity {
  @PrimaryColumn({ type: 'text' })
  id!: KeyId;

  @Column({ name: 'project_id', type: 'text' })
  projectId!: ProjectId;

  @Column({ name: 'secret_sha256', type: 'bytea' })
  secretSha256!: Buffer;

  @Column({ name: 'created_at', type: 'timestamptz', default: () => 'now()' })
  createdAt!: Date;

  @Column({ name: 'revoked_at', type: 'timestamptz', nullable: true })
  revokedAt!: Date | null;
}
