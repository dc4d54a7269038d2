import type { OperationId } from '@cairn/domain';
import { openOperationConsumer, type QueueBackend } from './queue-backend.js';
import { parseOperationJob } from './queues.js';

/** How to work through nudges. */
export interface OperationConsumerOptions {
  concurrency: number;
  /** Called for every nudge; BullMQ may deliver one twice, so it begins with a claim. A throw only ends the job. */
  process: (operationId: OperationId) => Promise<void>;
  /** Connection trouble and malformed payloads. */
  onError: (error: Error) => void;
}

/** Takes nudges from the queue until it is closed; reconnects by itself. */
export class OperationConsumer {
  private constructor(private readonly closeAll: () => Promise<void>) {}

  /** Starts taking nudges. */
  static start(backend: QueueBackend, options: OperationConsumerOptions): OperationConsumer {
    const { close, instance } = openOperationConsumer(backend, {
      concurrency: options.concurrency,
      onError: options.onError,
      process: async (job) => {
        await options.process(parseOperationJob(job.data).operationId);
      },
    });
    instance.on('failed', (_job, error) => options.onError(error));
    return new OperationConsumer(close);
  }

  /** Takes no more, waits for those under way, and closes the connections. */
  async close(): Promise<void> {
    await this.closeAll();
  }
}
