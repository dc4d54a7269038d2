import { AttachmentEntity } from './attachment.entity.js';
import { NodeEntity, PoolEntity } from './node.entity.js';
import { OperationEntity } from './operation.entity.js';
import { ApiKeyEntity, ProjectEntity } from './project.entity.js';
import { SnapshotEntity } from './snapshot.entity.js';
import { VolumeEntity } from './volume.entity.js';

/** Every entity, for the data source. */
export const entities = [
  ProjectEntity,
  ApiKeyEntity,
  NodeEntity,
  PoolEntity,
  VolumeEntity,
  SnapshotEntity,
  AttachmentEntity,
  OperationEntity,
];
