export { native, type Native } from './addon.js';
export { EFD_NONBLOCK, ENTER_STATE, IO_URING } from './io-uring.js';
export { check, errnoName, SystemError } from './system-error.js';
