import type { DeviceShard } from './device-shard.js';
import { SLOT } from './request-slots.js';

/** Flushes of our own, without a guest's request behind them. */
export class ShardFlushes {
  private readonly waiters = new Map<number, (ok: boolean) => void>();

  constructor(private readonly shard: DeviceShard) {}

  /** Makes every completed write durable; `done(false)` when that failed. */
  start(done: (ok: boolean) => void): void {
    const { shard } = this;
    if (shard.file.fd < 0) return done(true);
    if (shard.shared.hasFailed) return done(false);
    return shard.host.withSlot(() => {
      const slot = shard.takeSlot();
      const { slots } = shard.host;
      slots.kind[slot] = SLOT.DEVICE_FLUSH;
      slots.fd[slot] = shard.file.fd;
      this.waiters.set(slot, done);
      shard.submitFlush(slot);
    });
  }

  completed(slot: number, ok: boolean): void {
    const done = this.waiters.get(slot);
    this.waiters.delete(slot);
    this.shard.releaseSlot(slot);
    done?.(ok);
  }
}
