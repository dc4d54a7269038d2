export { syncDirectory, writeFileAtomic } from './atomic-file.js';
export { type BlockBackend } from './block-backend.js';
export {
  ChangedBlocks,
  type ExtentPage,
  SNAPSHOT_BLOCK_BYTES,
  type SnapshotBlock,
  type SnapshotExtent,
} from './changed-blocks.js';
export {
  type ChainLayer,
  type HeadSwitch,
  type LiveVolume,
  type SwitchHeads,
  type VolumeChain,
} from './chain.js';
export { type CoalesceOptions, type CoalesceProgress, type CoalesceReport } from './coalescer.js';
export { type Disk, type DiskFile, systemDisk } from './disk.js';
export { ChunkWalk } from './chunk-walk.js';
export { CHUNK_BYTES, ExtentMap, type ExtentMapOptions } from './extent-map.js';
export { ExtentRuns } from './extent-runs.js';
export { BLOCK_BYTES, type LayerFile, ZEROED, zeroMapPosition } from './layer-format.js';
export {
  checkPool,
  type CheckPoolOptions,
  describeFinding,
  type PoolCheck,
  type PoolFinding,
  scrubPoolAt,
} from './fsck.js';
export { type FsyncPromise, type PoolAbilities } from './pool-probe.js';
export { type SnapshotRecord, type SnapshotState, type VolumeManifest } from './records.js';
export { type PreparedSnapshots, type SnapshotRequest } from './snapshots.js';
export { type LayerDamage, type ScrubOptions, type ScrubReport } from './scrub.js';
export { SnapshotWriter, type StartSnapshot } from './snapshot-writer.js';
export { type OnStep, type Step, STEPS } from './steps.js';
export { StorageError, type StorageErrorDetails, type StorageErrorKind } from './storage-error.js';
export { type PoolUsage } from './usage.js';
export { VolumeImage, type VolumeImageOptions } from './volume-image.js';
export {
  type PoolCapacity,
  type VolumeRecord,
  VolumeStore,
  type VolumeStoreOptions,
} from './volume-store.js';
