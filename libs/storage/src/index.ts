export { syncDirectory, writeFileAtomic } from './atomic-file.js';
export { StorageError, type StorageErrorDetails, type StorageErrorKind } from './storage-error.js';
export {
  type PoolCapacity,
  type VolumeRecord,
  VolumeStore,
  type VolumeStoreOptions,
} from './volume-store.js';
