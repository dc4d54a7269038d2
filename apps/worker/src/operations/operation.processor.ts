// The row is the truth, the job is a nudge, the sweep closes the gap.
//
//   control plane:  row (pending) -> commit -> nudge ......lost?......+
//   processor:      nudge -> claim row by lease -> effect -> end row  |
//   sweeper:        rows past their time -> the same claim <----------+
//
// A nudge carries nothing but the operation's id. It may come twice, late or never: whoever wins the
// claim (compare-and-set on the row) runs the operation, and only the holder of that claim may end it.
// Nothing here may decide by what the queue says, and a job's failure means nothing to the operation.
import { Injectable, Logger } from '@nestjs/common';
import { OperationConsumer, type QueueBackend } from '@cairn/jobs';
import { OperationRunner } from './operation.runner.js';

/** Where nudges come from and how many are worked on at once. */
export abstract class ProcessorSettings {
  abstract readonly queue: QueueBackend;
  abstract readonly concurrency: number;
}

/** Runs operations as they are nudged. */
@Injectable()
export class OperationProcessor {
  private readonly logger = new Logger(OperationProcessor.name);
  private consumer: OperationConsumer | undefined;
  private lastTrouble: string | undefined;

  constructor(
    private readonly runner: OperationRunner,
    private readonly settings: ProcessorSettings,
  ) {}

  /** Starts taking nudges; a queue that is away is waited for. */
  start(): void {
    const { queue, concurrency } = this.settings;
    this.consumer = OperationConsumer.start(queue, {
      concurrency,
      process: async (operationId) => {
        this.lastTrouble = undefined;
        await this.runner.run(operationId);
      },
      onError: (error) => this.noteTrouble(error),
    });
  }

  /** Takes no more nudges and resolves when those under way have ended. */
  async stop(): Promise<void> {
    await this.consumer?.close();
  }

  /** A queue that is away repeats itself with every reconnect; it is logged once until a nudge comes through. */
  private noteTrouble({ message }: Error): void {
    if (message === this.lastTrouble) return;
    this.lastTrouble = message;
    this.logger.warn(`the queue: ${message}; operations are found by the sweep`);
  }
}
