export { syncDirectory, writeFileAtomic } from './atomic-file.js';
export { CHUNK_BYTES, ExtentMap, type ExtentMapOptions } from './extent-map.js';
export { ExtentRuns } from './extent-runs.js';
export { BLOCK_BYTES, type LayerFile, ZEROED, zeroMapPosition } from './layer-format.js';
export { StorageError, type StorageErrorDetails, type StorageErrorKind } from './storage-error.js';
export {
  type PoolCapacity,
  type VolumeRecord,
  VolumeStore,
  type VolumeStoreOptions,
} from './volume-store.js';
