export { Reactor, type ReactorOptions } from './reactor.js';
export type { ExportSpec, ExportStatus } from './reactor-protocol.js';
export { type CacheMode, ensureVolumeFile } from './volume-file.js';
export { lockVolumeFile } from './volume-lock.js';
