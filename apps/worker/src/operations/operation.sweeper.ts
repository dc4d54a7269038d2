import { Injectable, Logger } from '@nestjs/common';
import { UnitOfWork } from '@cairn/persistence';
import { RecurringTask } from '../schedule/recurring-task.js';
import { OperationRunner } from './operation.runner.js';

/** How often to look and how many operations to run at once. */
export abstract class SweeperSettings {
  abstract readonly sweepMs: number;
  abstract readonly concurrency: number;
}

/**
 * Finds the operations that nobody attends to and runs them: nudge lost, retry due, lease expired, deadline passed.
 *
 * It asks the rows and not the queue, and runs what it finds by itself instead of nudging again. So a
 * queue that is down, or that still holds the job of a dead worker, costs one sweep of delay. Several
 * sweepers share the work: `findDue` gives each operation to one of them, and the claim has the last word.
 */
@Injectable()
export class OperationSweeper {
  private readonly logger = new Logger(OperationSweeper.name);
  private readonly running = new Set<Promise<void>>();
  private readonly task: RecurringTask;

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly runner: OperationRunner,
    private readonly settings: SweeperSettings,
  ) {
    this.task = new RecurringTask({
      name: OperationSweeper.name,
      intervalMs: settings.sweepMs,
      run: () => this.sweep(),
    });
  }

  /** Sweeps at once, then every interval. */
  start(): void {
    this.task.start();
  }

  /** Takes nothing more and resolves when what it runs has ended. */
  async stop(): Promise<void> {
    await this.task.stop();
    await Promise.all(this.running);
  }

  private async sweep(): Promise<void> {
    const free = this.settings.concurrency - this.running.size;
    if (free <= 0) return;
    const due = await this.unitOfWork.read(({ operations }) => operations.findDue(free));
    for (const { id } of due) {
      const run = this.runner.run(id).catch((error: unknown) => {
        this.logger.warn(
          `${id} is left to the next sweep: ${error instanceof Error ? error.message : String(error)}`,
        );
      });
      this.running.add(run);
      void run.then(() => this.running.delete(run));
    }
  }
}
