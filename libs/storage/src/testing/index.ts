export { type BackendUnderTest, describeBlockBackend } from './block-backend.conformance.js';
export { type BackendVerb, FaultyBackend } from './faulty.backend.js';
export { MemoryBackend } from './memory.backend.js';
export { seeded } from './random.js';
