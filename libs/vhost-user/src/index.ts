export { FdBag, FdList, type Handed, HandedReader, type HandedValue } from './handed-state.js';
export { MAX_SPAN_BYTES, type MemoryLayout, MemoryViews } from './memory-table.js';
export { Session, type SessionEvents } from './session.js';
export type { AreaSlice, RingStart, VhostUserBackend } from './vhost-user-backend.js';
export { VhostUserError, type VhostUserFault } from './vhost-user-error.js';
export type { RingFds } from './vring.js';
