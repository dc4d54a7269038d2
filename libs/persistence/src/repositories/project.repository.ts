import { newId, type KeyId, type ProjectId } from '@cairn/domain';
import type { EntityManager } from 'typeorm';
import { ApiKeyEntity, ProjectEntity } from '../entities/project.entity.js';

/** An owner of volumes. */
export interface Project {
  id: ProjectId;
  name: string;
}

/** What is kept of an API key. */
export interface ApiKey {
  id: KeyId;
  projectId: ProjectId;
  secretSha256: Buffer;
}

/** Projects and their API keys. */
export class ProjectRepository {
  constructor(private readonly manager: EntityManager) {}

  /** The project of this name, made now if there is none. */
  async ensure(name: string): Promise<Project> {
    await this.manager
      .createQueryBuilder()
      .insert()
      .into(ProjectEntity)
      .values({ id: newId('proj'), name })
      .orIgnore()
      .execute();
    const { id } = await this.manager.findOneByOrFail(ProjectEntity, { name });
    return { id, name };
  }

  /** Keeps a key unless one of this id exists already; that one is left as it is. */
  async insertKey(key: ApiKey): Promise<void> {
    await this.manager.createQueryBuilder().insert().into(ApiKeyEntity).values(key).orIgnore().execute();
  }

  /** The key, or `undefined` when it is unknown or revoked. */
  async findKey(id: KeyId): Promise<ApiKey | undefined> {
    const row = await this.manager.findOneBy(ApiKeyEntity, { id });
    if (!row || row.revokedAt) return undefined;
    return { id: row.id, projectId: row.projectId, secretSha256: row.secretSha256 };
  }
}
