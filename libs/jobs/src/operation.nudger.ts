import type { Operation } from '@cairn/domain';
import type { Queue } from 'bullmq';
import { openOperationQueue, type Opened, type QueueBackend } from './queue-backend.js';
import { operationJob, operationJobId, queues } from './queues.js';

const NUDGE_TIMEOUT_MS = 1_000;
// Once the queue is known to be away, a request need not wait long to learn it again.
const NUDGE_TIMEOUT_WHILE_AWAY_MS = 100;
const PING_TIMEOUT_MS = 1_500;

/** Where the nudger tells that the queue went away and came back; once each, not per request. */
export interface NudgerLog {
  warn(message: string): void;
  log(message: string): void;
}

/**
 * Tells a worker that an operation waits.
 *
 * Only a hint: a nudge that fails or gets lost delays the operation until the sweep, and never
 * fails or holds up the request that made it.
 */
export class OperationNudger {
  private opened: Opened<Queue> | undefined;
  private away = false;

  constructor(
    private readonly backend: QueueBackend,
    private readonly log: NudgerLog,
  ) {}

  /** Nudges now, or after a delay for a retry. Never throws and takes about a second at most. */
  async nudge(
    operation: Pick<Operation, 'id' | 'attempts'>,
    options: { delayMs?: number } = {},
  ): Promise<void> {
    const timeoutMs = this.away ? NUDGE_TIMEOUT_WHILE_AWAY_MS : NUDGE_TIMEOUT_MS;
    const jobId = operationJobId(operation.id, operation.attempts);
    try {
      await this.within(timeoutMs, (queue) =>
        queue.add(queues.operations.jobName, operationJob(operation.id), {
          jobId,
          delay: options.delayMs ?? 0,
        }),
      );
      this.cameBack();
    } catch (error) {
      this.wentAway(error);
    }
  }

  /** Throws when the queue does not answer in time; for readiness. */
  async ping(): Promise<void> {
    try {
      await this.within(PING_TIMEOUT_MS, (queue) => queue.getWaitingCount());
      this.cameBack();
    } catch (error) {
      this.wentAway(error);
      throw error;
    }
  }

  /** Closes the connections. */
  async close(): Promise<void> {
    const opened = this.opened;
    this.opened = undefined;
    await opened?.close().catch(() => undefined);
  }

  private async within<T>(timeoutMs: number, work: (queue: Queue) => Promise<T>): Promise<T> {
    const opened = this.open();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    });
    try {
      return await Promise.race([work(opened.instance), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  private open(): Opened<Queue> {
    if (this.opened) return this.opened;
    const opened = openOperationQueue(this.backend, () => undefined);
    this.opened = opened;
    // BullMQ remembers a failed first connection to PostgreSQL for good, so such a queue is replaced.
    opened.instance.waitUntilReady().catch(() => {
      if (this.opened === opened) this.opened = undefined;
      void opened.close().catch(() => undefined);
    });
    return opened;
  }

  private wentAway(error: unknown): void {
    if (this.away) return;
    this.away = true;
    const reason = error instanceof Error ? error.message : String(error);
    this.log.warn(`The queue does not take nudges (${reason}). Operations wait for the sweep until it does.`);
  }

  private cameBack(): void {
    if (!this.away) return;
    this.away = false;
    this.log.log('The queue takes nudges again.');
  }
}
