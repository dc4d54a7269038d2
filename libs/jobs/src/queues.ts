import { isId, type OperationId } from '@cairn/domain';
import type { DefaultJobOptions } from 'bullmq';

/** The payload of a nudge: only which row to look at; what to do stands in the row. */
export interface OperationJob {
  version: 1;
  operationId: OperationId;
}

/**
 * Every queue: its name, its job's name and payload version, and the options of each job.
 *
 * Finished jobs are removed at once: a kept one would silently swallow the next nudge of the same
 * operation, since BullMQ ignores an add under a job id that exists. Jobs are tried once; the row and
 * the sweep decide about another try.
 */
export const queues = {
  operations: {
    name: 'operations',
    jobName: 'run-operation',
    version: 1,
    jobOptions: { removeOnComplete: true, removeOnFail: true, attempts: 1 } satisfies DefaultJobOptions,
  },
} as const;

/** The payload that nudges an operation. */
export function operationJob(operationId: OperationId): OperationJob {
  return { version: queues.operations.version, operationId };
}

/**
 * Reads a payload that came over the queue.
 *
 * Throws for another version, a missing or an unknown field: the sender was another release, and the
 * sweep will hand the operation to a worker that understands it.
 */
export function parseOperationJob(data: unknown): OperationJob {
  if (typeof data !== 'object' || data === null) throw new Error('The job payload is not an object.');
  const fields = new Map<string, unknown>(Object.entries(data));
  const version = fields.get('version');
  const operationId = fields.get('operationId');
  if (version !== queues.operations.version)
    throw new Error(`The job payload has version ${String(version)}.`);
  if (!isId('op', operationId)) throw new Error('The job payload names no operation.');
  const unknown = [...fields.keys()].filter((key) => key !== 'version' && key !== 'operationId');
  if (unknown.length > 0) throw new Error(`The job payload has unknown fields: ${unknown.join(', ')}.`);
  return operationJob(operationId);
}

/** BullMQ's job id for a nudge: neither an integer nor with a colon, which BullMQ refuses. */
export function operationJobId(operationId: OperationId, attempts: number): string {
  // A retry gets its own id: the job of the try that asks for it still exists and would swallow the same id.
  return attempts === 0 ? operationId : `${operationId}-${attempts}`;
}
