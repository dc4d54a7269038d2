import { Injectable, Logger } from '@nestjs/common';
import {
  DomainError,
  operationBackoffMs,
  reasonOf,
  targetName,
  type FaultPoints,
  type Operation,
  type OperationId,
  type Reason,
} from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';
import { OperationHandlers } from './operation.handlers.js';

/** Who runs operations here and how long a claim lasts without renewal. */
export abstract class RunnerSettings {
  abstract readonly workerId: string;
  abstract readonly leaseMs: number;
  abstract readonly faultPoints: FaultPoints;
}

/** A guest lets go within moments of being asked; a detach that waits for it looks again this often. */
const busyBackoffMs = 2000;

/** Claims one operation, performs it, and writes down how it went. */
@Injectable()
export class OperationRunner {
  private readonly logger = new Logger(OperationRunner.name);

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly handlers: OperationHandlers,
    private readonly settings: RunnerSettings,
  ) {}

  /**
   * Runs the operation if nobody else does; returns at once when there is nothing to do.
   *
   * Throws only when the database does; the lease then runs out and the sweep finds the operation.
   */
  async run(id: OperationId): Promise<void> {
    const { workerId, leaseMs, faultPoints } = this.settings;
    const claimed = await this.unitOfWork.read(({ operations }) =>
      operations.claim(id, { workerId, leaseMs }),
    );
    if (claimed === undefined) return;
    faultPoints.reach('worker.after-claim');
    const renewal = setInterval(() => void this.renew(claimed), leaseMs / 3);
    try {
      await this.attempt(claimed);
    } catch (error) {
      if (!(error instanceof DomainError && error.code === 'lease-lost')) throw error;
      this.logger.warn(error.message);
    } finally {
      clearInterval(renewal);
    }
  }

  private async attempt(claimed: Operation): Promise<void> {
    // updated_at is the database's time of the claim: no clock of ours decides about the deadline.
    if (claimed.updatedAt >= claimed.deadline) return this.giveUp(claimed, overdueReason(claimed));
    try {
      const settle = await this.handlers.perform(claimed);
      this.settings.faultPoints.reach('worker.before-complete');
      await this.unitOfWork.run(async (repositories) => {
        await settle(repositories);
        await repositories.operations.succeed(claimed);
      });
    } catch (error) {
      return this.handleFailure(claimed, error);
    }
    this.settings.faultPoints.reach('worker.after-complete');
    this.logger.log(`${claimed.kind} ${claimed.id} of ${targetName(claimed)} succeeded`);
  }

  private async handleFailure(claimed: Operation, error: unknown): Promise<void> {
    if (error instanceof DomainError && error.code === 'lease-lost') throw error;
    const reason = reasonOf(error);
    // What nobody foresaw may be passing; the deadline ends it if it is not.
    const isRetryable = !(error instanceof DomainError) || error.retryable;
    if (!(error instanceof DomainError)) {
      this.logger.error(
        `${claimed.kind} ${claimed.id}: ${reason.message}`,
        error instanceof Error ? error.stack : undefined,
      );
    }
    if (!isRetryable) return this.giveUp(claimed, reason);
    const backoffMs = operationBackoffMs(claimed.attempts);
    const delayMs = reason.code === 'export-busy' ? Math.min(backoffMs, busyBackoffMs) : backoffMs;
    await this.unitOfWork.read(({ operations }) => operations.retryLater(claimed, { delayMs, reason }));
    if (claimed.attempts === 1)
      this.logger.warn(`${claimed.kind} ${claimed.id} will be retried: ${reason.code}: ${reason.message}`);
  }

  private async giveUp(claimed: Operation, reason: Reason): Promise<void> {
    try {
      const { settle, cleanUp } = await this.handlers.abandon(claimed, reason);
      await this.unitOfWork.run(async (repositories) => {
        await settle(repositories);
        await repositories.operations.fail(claimed, reason);
      });
      await cleanUp?.();
    } catch (error) {
      if (!(error instanceof DomainError) || error.retryable) throw error;
      // Rows that do not allow the move were changed by hand; the operation must end all the same.
      this.logger.error(`${claimed.id} ends without moving ${targetName(claimed)}: ${error.message}`);
      await this.unitOfWork.read(({ operations }) => operations.fail(claimed, reason));
    }
    this.logger.error(
      `${claimed.kind} ${claimed.id} of ${targetName(claimed)} failed: ${reason.code}: ${reason.message}`,
    );
  }

  private async renew(claimed: Operation): Promise<void> {
    try {
      await this.unitOfWork.read(({ operations }) => operations.renewLease(claimed, this.settings.leaseMs));
    } catch {
      // The next renewal or the lease's end decides; whoever ends the operation checks the claim.
    }
  }
}

/** An operation that never met an error was never tried in time. */
function overdueReason({ kind, attempts, error }: Operation): Reason {
  if (error === undefined) {
    return { code: 'deadline-exceeded', message: `The ${kind} was not done before its deadline.` };
  }
  return {
    code: error.code,
    message: `Given up at the deadline after ${attempts - 1} tries: ${error.message}`,
  };
}
