import { Logger } from '@nestjs/common';
import type { VolumeStore } from '@cairn/storage';

/** How fast and how often. */
export interface CoalescingOptions {
  readonly bytesPerSecond: number;
  /** Requests of guests that are in flight now; it makes room for them. */
  readonly requestsInFlight: () => number;
  /** Layers of volumes that were being written are tried again after so long. */
  readonly intervalMs: number;
}

/**
 * Gives back, in the background, the bytes that deleted volumes and snapshots leave behind.
 *
 * It goes on where a crash stopped it. A turn that fails is logged when that begins, and tried again.
 */
export class Coalescing {
  private readonly logger = new Logger(Coalescing.name);
  private readonly stopping = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private turn: Promise<void> | undefined;
  private isWanted = false;
  private isOut = false;

  constructor(
    private readonly pool: Pick<VolumeStore, 'coalescer'>,
    private readonly options: CoalescingOptions,
  ) {}

  /** Does what there is to do, from now on or after the turn that runs. */
  start(): void {
    if (this.stopping.signal.aborted) return;
    this.isWanted = true;
    this.turn ??= this.runTurns();
  }

  /** Begins nothing more and resolves when what runs has ended, at its next step. */
  async stop(): Promise<void> {
    this.stopping.abort();
    clearTimeout(this.timer);
    await this.turn;
  }

  private async runTurns(): Promise<void> {
    clearTimeout(this.timer);
    while (this.isWanted && !this.stopping.signal.aborted) {
      this.isWanted = false;
      await this.runOnce();
    }
    this.turn = undefined;
    if (this.stopping.signal.aborted) return;
    this.timer = setTimeout(() => this.start(), this.options.intervalMs).unref();
  }

  private async runOnce(): Promise<void> {
    try {
      await this.pool.coalescer.run({
        bytesPerSecond: this.options.bytesPerSecond,
        requestsInFlight: this.options.requestsInFlight,
        signal: this.stopping.signal,
      });
      if (this.isOut) this.logger.log('deleted bytes are given back again');
      this.isOut = false;
    } catch (error) {
      if (!this.isOut) {
        this.logger.warn(
          `deleted bytes are not given back now: ${error instanceof Error ? error.message : String(error)}`,
        );
      }
      this.isOut = true;
    }
  }
}
