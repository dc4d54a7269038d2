export { BlkConfigSpace, type BlkGeometry } from './blk/blk-config.js';
export { BLK_STATUS, BLK_TYPE, BlkRequest, SECTOR_BYTES } from './blk/blk-request.js';
export {
  parseBlkSegments,
  type BlkSegment,
  type BlkSegmentLimits,
  type BlkSegments,
} from './blk/blk-segments.js';
export { type Chain } from './chain.js';
export { DescriptorChain, MAX_CHAIN } from './descriptor-chain.js';
export { FEATURE, FeatureSet, type FeatureBit } from './features.js';
export { GuestMemory, type MemoryMapping, type MemoryRun } from './guest-memory.js';
export { type InflightRegion } from './inflight-region.js';
export { PackedInflight, packedInflightBytes } from './packed-inflight.js';
export { packedRingBytes } from './packed-ring-memory.js';
export { PackedVirtqueue, type PackedVirtqueueConfig } from './packed-virtqueue.js';
export { ringBytes, RingMemory, type RingAddresses } from './ring-memory.js';
export { SplitInflight, splitInflightBytes, type SplitResumption } from './split-inflight.js';
export { SplitVirtqueue, type SplitVirtqueueConfig } from './split-virtqueue.js';
export {
  inflightBytes,
  makeVirtqueue,
  type Virtqueue,
  virtqueueBytes,
  type VirtqueueConfig,
} from './virtqueue.js';
export { VIRTQUEUE_FAULTS, VirtqueueError, type VirtqueueFault } from './virtqueue-error.js';
