import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { RecurringTask } from './recurring-task.js';

afterEach(() => void vi.restoreAllMocks());

describe('RecurringTask', () => {
  it('runs again after its interval and never twice at once', async () => {
    let running = 0;
    let most = 0;
    let turns = 0;
    const task = new RecurringTask({
      name: 'test',
      intervalMs: 1,
      run: async () => {
        running += 1;
        most = Math.max(most, running);
        await sleep(5);
        running -= 1;
        turns += 1;
      },
    });
    task.start();
    await sleep(60);
    await task.stop();
    expect(turns).toBeGreaterThan(1);
    expect(most).toBe(1);
  });

  it('waits for the running turn when it is stopped, and starts no other', async () => {
    let turns = 0;
    const task = new RecurringTask({
      name: 'test',
      intervalMs: 1,
      run: async () => {
        await sleep(20);
        turns += 1;
      },
    });
    task.start();
    await task.stop();
    expect(turns).toBe(1);
    await sleep(30);
    expect(turns).toBe(1);
  });

  it('logs an outage once when it begins and once when it ends', async () => {
    const warn = vi.spyOn(Logger.prototype, 'warn').mockReturnValue();
    const log = vi.spyOn(Logger.prototype, 'log').mockReturnValue();
    let turns = 0;
    const task = new RecurringTask({
      name: 'test',
      intervalMs: 1,
      run: async () => {
        turns += 1;
        if (turns <= 3) throw new Error('the database is away');
      },
    });
    task.start();
    await vi.waitFor(() => expect(turns).toBeGreaterThan(5));
    await task.stop();
    expect(warn.mock.calls).toEqual([['does not work now: the database is away']]);
    expect(log.mock.calls).toEqual([['works again']]);
  });
});
