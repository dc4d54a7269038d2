export { DeviceMemory } from './device-memory.js';
export { FakeDriver, type Descriptor } from './fake-driver.js';
export { FakePackedDriver, PACKED_DESC, RING_EVENT, type PackedDescriptor } from './fake-packed-driver.js';
export { Choices, fuzz, type FuzzBudget, fuzzBudget } from './fuzzing.js';
export { GuestRam, type RamRegion, type RamRegionSpec } from './guest-ram.js';
export { makeRingDriver } from './make-ring-driver.js';
export { DeviceFault, type RingDriver, type RingPlace, type Segment, type UsedChain } from './ring-driver.js';
export { BLK_FEATURE, BLK_STATUS, BLK_TYPE, DESC, RING_FEATURE, bits } from './virtio-numbers.js';
