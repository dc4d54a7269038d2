export { dataSourceOptions, type DatabaseOptions, type WaitOptions } from './data-source.js';
export { Database } from './database.js';
export { migrate } from './migrate.js';
export { PersistenceModule, type PersistenceOptions } from './persistence.module.js';
export { AttachmentRepository, type AttachmentChanges } from './repositories/attachment.repository.js';
export { NodeRepository } from './repositories/node.repository.js';
export { OperationRepository, type ClaimOptions } from './repositories/operation.repository.js';
export { ProjectRepository, type ApiKey, type Project } from './repositories/project.repository.js';
export {
  SnapshotRepository,
  type SnapshotPage,
  type SnapshotQuery,
} from './repositories/snapshot.repository.js';
export {
  VolumeRepository,
  type VolumeChanges,
  type VolumePage,
  type VolumeQuery,
} from './repositories/volume.repository.js';
export { UnitOfWork, type Repositories } from './unit-of-work.js';
