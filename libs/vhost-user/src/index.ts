export { MappedMemory, MAX_GPA_BYTES } from './memory-table.js';
export { Session, type RingStart, type VhostUserBackend } from './session.js';
export { VhostUserError, type VhostUserFault } from './vhost-user-error.js';
export { Vring } from './vring.js';
