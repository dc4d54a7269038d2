export { Guest, type GuestOptions } from './guest.js';
export type { ToolSet } from './guest-tools.js';
export type { GuestResult } from './guest-channel.js';
export { cacheDirectory, findGuestKernel, type GuestKernel } from './guest-kernel.js';
export { migrate, type Migrated } from './migration.js';
export { plug, unplug, type Plugged, type PlugRequest } from './hot-plug.js';
export { QmpClient, type QmpEvent } from './qmp-client.js';
export { QemuError, QmpCommandError, type QemuErrorCode } from './qemu-error.js';
export { Tethered, type TetherOptions } from './tethered.js';
