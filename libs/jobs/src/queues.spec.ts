import { newId } from '@cairn/domain';
import { describe, expect, it } from 'vitest';
import { chooseQueueBackend, queuePrefixPattern } from './queue-backend.js';
import { operationJob, operationJobId, parseOperationJob } from './queues.js';

describe('a nudge', () => {
  const operationId = newId('op');

  it('survives the way over the queue', () => {
    expect(parseOperationJob(JSON.parse(JSON.stringify(operationJob(operationId))))).toEqual({
      version: 1,
      operationId,
    });
  });

  it.each([
    null,
    'text',
    {},
    { version: 2, operationId },
    { version: 1 },
    { version: 1, operationId: 'op-1' },
    { version: 1, operationId: newId('vol') },
    { version: 1, operationId, extra: true },
  ])('refuses the payload %j', (data) => {
    expect(() => parseOperationJob(data)).toThrow();
  });

  it('has a job id that BullMQ takes, and another one for each retry', () => {
    expect(operationJobId(operationId, 0)).toBe(operationId);
    const ids = [0, 1, 2].map((attempts) => operationJobId(operationId, attempts));
    expect(new Set(ids).size).toBe(3);
    for (const id of ids) expect(id).not.toMatch(/:|^\d+$/);
  });
});

it('the queue is on Redis when there is one, else in the database', () => {
  const databaseUrl = 'postgres://x/y';
  expect(chooseQueueBackend({ databaseUrl })).toEqual({
    kind: 'postgres',
    connectionString: databaseUrl,
    prefix: 'cairn',
  });
  expect(chooseQueueBackend({ databaseUrl, redisUrl: 'redis://x', prefix: 'p' })).toEqual({
    kind: 'redis',
    url: 'redis://x',
    prefix: 'p',
  });
  for (const bad of ['', '1a', 'A', 'a:b', 'a-b', 'x'.repeat(32)])
    expect(queuePrefixPattern.test(bad)).toBe(false);
});
