import { Logger } from '@nestjs/common';

/** What to run, how often, and what to call it in the log. */
export interface RecurringTaskOptions {
  readonly name: string;
  readonly intervalMs: number;
  run(): Promise<void>;
}

/**
 * Runs a task again and again, never twice at once.
 *
 * A task that throws is tried again at the next turn; the log tells when an outage begins and when it ends,
 * and not what each turn of it met.
 */
export class RecurringTask {
  private readonly logger: Logger;
  private timer: NodeJS.Timeout | undefined;
  private turn: Promise<void> = Promise.resolve();
  private isStopped = false;
  private isOut = false;

  constructor(private readonly options: RecurringTaskOptions) {
    this.logger = new Logger(options.name);
  }

  /** Runs the first turn at once. */
  start(): void {
    this.turn = this.runTurn();
  }

  /** Starts no further turn and resolves when the one that runs has ended. */
  async stop(): Promise<void> {
    this.isStopped = true;
    clearTimeout(this.timer);
    await this.turn;
  }

  private async runTurn(): Promise<void> {
    try {
      await this.options.run();
      if (this.isOut) this.logger.log('works again');
      this.isOut = false;
    } catch (error) {
      if (!this.isOut)
        this.logger.warn(`does not work now: ${error instanceof Error ? error.message : String(error)}`);
      this.isOut = true;
    }
    if (this.isStopped) return;
    this.timer = setTimeout(() => {
      this.turn = this.runTurn();
    }, this.options.intervalMs);
  }
}
