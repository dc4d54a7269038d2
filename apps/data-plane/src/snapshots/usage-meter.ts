import { Logger } from '@nestjs/common';
import type { AgentUsage } from '@cairn/agent';
import { isId } from '@cairn/domain';
import type { VolumeStore } from '@cairn/storage';

/**
 * Measures, in the background and from time to time, whose bytes the pool holds.
 *
 * Nobody waits for it: who asks is told what was measured last. A failure is logged when it begins.
 */
export class UsageMeter {
  private readonly logger = new Logger(UsageMeter.name);
  private timer: NodeJS.Timeout | undefined;
  private turn: Promise<void> | undefined;
  private isStopped = false;
  private isOut = false;
  private last: AgentUsage = { usage: [] };

  constructor(
    private readonly pool: Pick<VolumeStore, 'usage'>,
    private readonly intervalMs: number,
  ) {}

  /** What was measured last; nothing before the first time. */
  get latest(): AgentUsage {
    return this.last;
  }

  /** Measures now, and again so long after each end. */
  start(): void {
    this.turn = this.measure();
  }

  /** Begins nothing more and resolves when what runs has ended. */
  async stop(): Promise<void> {
    this.isStopped = true;
    clearTimeout(this.timer);
    await this.turn;
  }

  private async measure(): Promise<void> {
    try {
      const measuredAt = new Date().toISOString();
      const { uniqueBytes, sharedBytesOf } = await this.pool.usage();
      const usage = [...uniqueBytes].flatMap(([id, unique]) =>
        isId('vol', id) || isId('snap', id)
          ? [{ id, uniqueBytes: unique, sharedBytes: sharedBytesOf.get(id) ?? 0 }]
          : [],
      );
      this.last = { measuredAt, usage };
      if (this.isOut) this.logger.log('usage is measured again');
      this.isOut = false;
    } catch (error) {
      if (!this.isOut)
        this.logger.warn(
          `usage is not measured now: ${error instanceof Error ? error.message : String(error)}`,
        );
      this.isOut = true;
    }
    if (!this.isStopped) this.timer = setTimeout(() => this.start(), this.intervalMs).unref();
  }
}
