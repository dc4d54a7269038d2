import { DeviceShared } from './device-shared.js';
import { emptyTotal, type MetricsTotal, ShardMetrics } from './shard-metrics.js';
import { RateLimiter } from './rate-limiter.js';

const SHARED_BYTES = 64;
const METRICS_AT = SHARED_BYTES + RateLimiter.BYTES;

/** All that the threads share of one export, in one buffer: device state, rate limit, and counters for each thread. */
export class ExportArena {
  readonly shared: DeviceShared;
  readonly limiter: RateLimiter;

  private constructor(readonly buffer: SharedArrayBuffer) {
    this.shared = new DeviceShared(buffer);
    this.limiter = new RateLimiter(buffer, SHARED_BYTES);
  }

  static make(reactors: number): ExportArena {
    return new ExportArena(new SharedArrayBuffer(METRICS_AT + reactors * ShardMetrics.BYTES));
  }

  static over(buffer: SharedArrayBuffer): ExportArena {
    return new ExportArena(buffer);
  }

  metricsOf(reactor: number): ShardMetrics {
    return new ShardMetrics(this.buffer, METRICS_AT + reactor * ShardMetrics.BYTES);
  }

  /** Sum over all threads. */
  total(): MetricsTotal {
    const total = emptyTotal();
    for (let reactor = 0; reactor < this.reactors; reactor += 1) this.metricsOf(reactor).addTo(total);
    return total;
  }

  /** Requests that are in flight on all threads, about. */
  inFlight(): number {
    let count = 0;
    for (let reactor = 0; reactor < this.reactors; reactor += 1) count += this.metricsOf(reactor).inFlight();
    return count;
  }

  private get reactors(): number {
    return (this.buffer.byteLength - METRICS_AT) / ShardMetrics.BYTES;
  }
}
