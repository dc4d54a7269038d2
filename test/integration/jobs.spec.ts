import { newId, type OperationId } from '@cairn/domain';
import { OperationConsumer, OperationNudger, type QueueBackend } from '@cairn/jobs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startPostgres, startRedis, type TestPostgres, type TestRedis } from '../support/databases.js';

let postgres: TestPostgres;
let redis: TestRedis;
let databaseUrl: string;

beforeAll(async () => {
  [postgres, redis] = await Promise.all([startPostgres(), startRedis()]);
  databaseUrl = await postgres.createDatabase();
});
afterAll(async () => {
  await Promise.all([postgres?.stop(), redis?.stop()]);
});

async function until(condition: () => boolean, timeoutMs = 10_000): Promise<void> {
  for (const end = Date.now() + timeoutMs; !condition();) {
    if (Date.now() > end) throw new Error('It did not come true in time.');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe.each(['redis', 'postgres'] as const)('the queue on %s', (kind) => {
  const closing: { close(): Promise<void> }[] = [];
  afterEach(async () => {
    for (const each of closing.splice(0).toReversed()) await each.close();
  });

  const backend = (): QueueBackend =>
    kind === 'redis'
      ? { kind, url: redis.url, prefix: 'cairn' }
      : { kind, connectionString: databaseUrl, prefix: 'cairn' };
  const server = () => (kind === 'redis' ? redis : postgres);

  function openNudger() {
    const lines: string[] = [];
    const log = { warn: (line: string) => lines.push(line), log: (line: string) => lines.push(line) };
    const nudger = new OperationNudger(backend(), log);
    closing.push(nudger);
    return { nudger, lines };
  }

  function consume(process: (id: OperationId) => Promise<void> = async () => undefined) {
    const seen: OperationId[] = [];
    const consumer = OperationConsumer.start(backend(), {
      concurrency: 4,
      onError: () => undefined,
      process: async (id) => {
        seen.push(id);
        await process(id);
      },
    });
    closing.push(consumer);
    return { seen, consumer };
  }

  it('delivers a nudge, and delivers the same operation again when it is nudged again', async () => {
    const { nudger } = openNudger();
    const { seen } = consume();
    const operation = { id: newId('op'), attempts: 0 };
    await nudger.nudge(operation);
    await until(() => seen.length === 1);
    // The finished job is removed just after the processor returns.
    await new Promise((resolve) => setTimeout(resolve, 200));
    await nudger.nudge(operation);
    await until(() => seen.length === 2);
    expect(seen).toEqual([operation.id, operation.id]);
  });

  it('delivers again after a processor that threw', async () => {
    const { nudger } = openNudger();
    const { seen } = consume(() => Promise.reject(new Error('no')));
    const operation = { id: newId('op'), attempts: 0 };
    await nudger.nudge(operation);
    await until(() => seen.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 200));
    await nudger.nudge(operation);
    await until(() => seen.length === 2);
  });

  it('delivers a delayed nudge for a retry, asked for from within the try', async () => {
    const { nudger } = openNudger();
    const at: number[] = [];
    const { seen } = consume(async (id) => {
      at.push(Date.now());
      if (at.length === 1) await nudger.nudge({ id, attempts: 1 }, { delayMs: 300 });
    });
    await nudger.nudge({ id: newId('op'), attempts: 0 });
    await until(() => seen.length === 2);
    expect((at[1] ?? 0) - (at[0] ?? 0)).toBeGreaterThanOrEqual(290);
  });

  it('never holds up or fails a nudge while it is away, says so once, and works when it is back', async () => {
    const { nudger, lines } = openNudger();
    const { seen } = consume();
    await nudger.nudge({ id: newId('op'), attempts: 0 });
    await until(() => seen.length === 1);
    await server().shutDown();
    const begin = Date.now();
    for (let i = 0; i < 5; i += 1) await nudger.nudge({ id: newId('op'), attempts: 0 });
    expect(Date.now() - begin).toBeLessThan(2_000);
    expect(lines).toEqual([expect.stringContaining('does not take nudges')]);
    await expect(nudger.ping()).rejects.toThrow();

    await server().bringUp();
    const late = newId('op');
    // A nudge can arrive after the nudger stopped waiting for the answer; the next one then says that it works.
    for (const end = Date.now() + 10_000; (!seen.includes(late) || lines.length < 2) && Date.now() < end;) {
      await nudger.nudge({ id: late, attempts: 0 });
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    expect(seen).toContain(late);
    expect(lines).toEqual([lines[0], expect.stringContaining('takes nudges again')]);
  });

  it('opens while it is away and works when it comes', async () => {
    await server().shutDown();
    const { nudger } = openNudger();
    await nudger.nudge({ id: newId('op'), attempts: 0 });
    await server().bringUp();
    const { seen } = consume();
    const late = newId('op');
    for (const end = Date.now() + 10_000; !seen.includes(late) && Date.now() < end;) {
      await nudger.nudge({ id: late, attempts: 0 });
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    expect(seen).toContain(late);
  });

  it('closes the consumer only after the work under way', async () => {
    const { nudger } = openNudger();
    let finished = false;
    const { seen, consumer } = consume(async () => {
      await new Promise((resolve) => setTimeout(resolve, 300));
      finished = true;
    });
    await nudger.nudge({ id: newId('op'), attempts: 0 });
    await until(() => seen.length === 1);
    await consumer.close();
    expect(finished).toBe(true);
  });
});
