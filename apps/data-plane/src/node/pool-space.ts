import { Logger } from '@nestjs/common';
import type { PoolCapacity, VolumeStore } from '@cairn/storage';

/** Is so little free that somebody should do something about it? 0 percent: never. */
export const isLowOnSpace = ({ freeBytes, totalBytes }: PoolCapacity, lowPercent: number): boolean =>
  freeBytes * 100 < totalBytes * lowPercent;

/** Looks at a pool's free space now and then, and says once when it becomes low and once when it is not any more. */
export class PoolSpaceWatch {
  private readonly logger = new Logger(PoolSpaceWatch.name);
  private timer: NodeJS.Timeout | undefined;
  private isLow = false;

  constructor(
    private readonly pool: Pick<VolumeStore, 'capacity' | 'poolId'>,
    private readonly settings: { lowPercent: number; intervalMs: number },
  ) {}

  start(): void {
    const { intervalMs, lowPercent } = this.settings;
    if (lowPercent === 0) return;
    this.timer = setInterval(() => void this.look(), intervalMs).unref();
    void this.look();
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /** Never throws: a pool that cannot be measured fails whoever uses it. */
  async look(): Promise<void> {
    let capacity: PoolCapacity;
    try {
      capacity = await this.pool.capacity();
    } catch {
      return;
    }
    const isLow = isLowOnSpace(capacity, this.settings.lowPercent);
    if (isLow === this.isLow) return;
    this.isLow = isLow;
    const { freeBytes, totalBytes } = capacity;
    const space = `${this.pool.poolId} has ${freeBytes} of ${totalBytes} bytes free`;
    if (isLow) {
      this.logger.warn(
        `${space}, less than ${this.settings.lowPercent} %: delete snapshots or volumes, or add space`,
      );
    } else {
      this.logger.log(`${space}, enough again`);
    }
  }
}
