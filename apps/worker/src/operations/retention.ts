import { Injectable } from '@nestjs/common';
import { UnitOfWork } from '@cairn/persistence';
import { RecurringTask } from '../schedule/recurring-task.js';

const intervalMs = 60_000;

/** How long a finished operation can be read and its client token stays taken. */
const operationRetentionMs = 24 * 3600 * 1000;

/** Forgets rows past their retention, some at a time. */
@Injectable()
export class Retention extends RecurringTask {
  constructor(unitOfWork: UnitOfWork) {
    super({
      name: Retention.name,
      intervalMs,
      run: () =>
        unitOfWork.read(async ({ volumes, snapshots, operations }) => {
          await volumes.purgeDeleted();
          await snapshots.purgeDeleted();
          await operations.purgeFinished(operationRetentionMs);
        }),
    });
  }
}
