export { Reactors, type ReactorsOptions } from './reactors.js';
export type { ExportSpec, ExportStatus } from './reactor-protocol.js';
export { NO_LIMITS, type RateLimits } from './rate-limiter.js';
export { BUCKETS, type Latency, emptyTotal, type MetricsTotal, OPERATIONS } from './shard-metrics.js';
export { type CacheMode, ensureVolumeFile } from './volume-file.js';
export { lockVolumeFile } from './volume-lock.js';
