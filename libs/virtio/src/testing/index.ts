export { DeviceMemory } from './device-memory.js';
export { FakeDriver, DeviceFault, type Descriptor, type Segment, type UsedChain } from './fake-driver.js';
export { FakePackedDriver, PACKED_DESC, RING_EVENT, type PackedDescriptor } from './fake-packed-driver.js';
export { GuestRam, type RamRegion, type RamRegionSpec } from './guest-ram.js';
export { BLK_FEATURE, BLK_STATUS, BLK_TYPE, DESC, RING_FEATURE, bits } from './virtio-numbers.js';
