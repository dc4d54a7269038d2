export { type BackendUnderTest, describeBlockBackend } from './block-backend.conformance.js';
export { type BackendVerb, FaultyBackend } from './faulty.backend.js';
export { type DiskFailure, FailingDisk } from './failing-disk.js';
export { MemoryBackend } from './memory.backend.js';
export { RecordingDisk } from './recording-disk.js';
export { seeded } from './random.js';
