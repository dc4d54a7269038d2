export { MAX_GPA_BYTES, type MemoryLayout, MemoryViews } from './memory-table.js';
export { type AreaSlice, type RingStart, Session, type VhostUserBackend } from './session.js';
export { VhostUserError, type VhostUserFault } from './vhost-user-error.js';
export type { RingFds } from './vring.js';
