export { syncDirectory, writeFileAtomic } from './atomic-file.js';
export { type BlockBackend } from './block-backend.js';
export {
  type ChainLayer,
  type HeadSwitch,
  type LiveVolume,
  type SwitchHeads,
  type VolumeChain,
} from './chain.js';
export { type CoalesceOptions, type CoalesceProgress, type CoalesceReport } from './coalescer.js';
export { type Disk, type DiskFile, systemDisk } from './disk.js';
export { CHUNK_BYTES, ExtentMap, type ExtentMapOptions } from './extent-map.js';
export { ExtentRuns } from './extent-runs.js';
export { BLOCK_BYTES, type LayerFile, ZEROED, zeroMapPosition } from './layer-format.js';
export { type PoolAbilities } from './pool-probe.js';
export { type SnapshotRecord, type SnapshotState, type VolumeManifest } from './records.js';
export { type PreparedSnapshots, type SnapshotRequest } from './snapshots.js';
export { type OnStep, type Step, STEPS } from './steps.js';
export { StorageError, type StorageErrorDetails, type StorageErrorKind } from './storage-error.js';
export { VolumeImage, type VolumeImageOptions } from './volume-image.js';
export {
  type PoolCapacity,
  type VolumeRecord,
  VolumeStore,
  type VolumeStoreOptions,
} from './volume-store.js';
