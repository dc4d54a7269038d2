export { BlkConfigSpace, type BlkGeometry } from './blk/blk-config.js';
export { BLK_STATUS, BLK_TYPE, BlkRequest, SECTOR_BYTES } from './blk/blk-request.js';
export { DescriptorChain, MAX_CHAIN } from './descriptor-chain.js';
export { FEATURE, FeatureSet, type FeatureBit } from './features.js';
export { GuestMemory, type MemoryMapping, type MemoryRun } from './guest-memory.js';
export { ringBytes, RingMemory, type RingAddresses } from './ring-memory.js';
export { SplitVirtqueue, type SplitVirtqueueConfig } from './split-virtqueue.js';
export { VirtqueueError, type VirtqueueFault } from './virtqueue-error.js';
