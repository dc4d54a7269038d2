export type { Handed, HandedValue } from '@cairn/vhost-user';
export { FdSocket } from './fd-socket.js';
export {
  DEFAULT_POLL_MICROS,
  defaultReactors,
  MAX_POLL_MICROS,
  MAX_REACTORS,
  Reactors,
  type ReactorsOptions,
} from './reactors.js';
export type { ReactorStatus } from './reactor-metrics.js';
export type { ExportSpec, ExportStatus } from './reactor-protocol.js';
export type { RateBalance } from './rate-limiter.js';
export { isLimited, NO_LIMITS, type RateLimits, rateLimitsOf } from './rate-limits.js';
export { BUCKETS, type Latency, emptyTotal, type MetricsTotal, OPERATIONS } from './shard-metrics.js';
export type { StandStill } from './served-files.js';
export { type CacheMode, ensureVolumeFile } from './volume-file.js';
export { lockVolumeFile } from './volume-lock.js';
