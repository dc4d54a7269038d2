import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Tethered } from '@cairn/qemu';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { CliError } from '../cli-error.js';
import { StackLog } from './stack-log.js';
import { SupervisedProcess } from './supervised.js';

const ready = (life: number): string => `echo 'ready {"life": ${life}}'`;
/** Serves until the file is there, or it is stopped. */
const untilFile = (file: string): string => `until [ -e '${file}' ]; do sleep 0.02; done`;

describe('replacing a supervised process', () => {
  let directory: string;
  let supervised: SupervisedProcess;
  let lines: string[];
  let refusals: CliError[];
  let starts: number;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-supervised-'));
    lines = [];
    refusals = [];
    starts = 0;
  });
  afterEach(async () => {
    await supervised.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const file = (name: string): string => join(directory, name);
  /** Each start takes the next script. */
  const supervise = (...scripts: string[]): void => {
    const plan = {
      name: 'thing',
      start: (onOutput: (chunk: string) => void) =>
        Tethered.start('sh', ['-c', scripts[starts++]!], onOutput, { stopSignal: 'TERM' }),
      stopTimeoutMs: 5000,
    };
    const log = new StackLog(directory, (line) => lines.push(line));
    supervised = new SupervisedProcess(plan, log, (reason) => refusals.push(reason));
  };

  it('keeps the other one running from then on, and not the one before', async () => {
    supervise(
      `${ready(1)}; ${untilFile(file('taken'))}`,
      `touch '${file('taken')}'; ${ready(2)}; ${untilFile(file('crash'))}; exit 3`,
      `${ready(3)}; sleep 60`,
    );
    await supervised.start();
    const told: string[] = [];
    expect(await supervised.replace((line) => told.push(line))).toEqual({ life: 2 });
    expect(told.at(-1)).toBe('the thing before it has ended');
    expect(starts).toBe(2);
    writeFileSync(file('crash'), '');
    await vi.waitFor(() => expect(starts).toBe(3), 5000);
    expect(lines.filter((line) => line.includes('starting it again'))).toEqual([
      expect.stringContaining('thing ended with 3; starting it again'),
    ]);
  });

  it('keeps the one before when the other refuses, and does not take that for a refusal of its own', async () => {
    supervise(`${ready(1)}; ${untilFile(file('crash'))}`, 'echo no; exit 78', `${ready(2)}; sleep 60`);
    await supervised.start();
    const told: string[] = [];
    const replaced = supervised.replace((line) => told.push(line));
    await expect(replaced).rejects.toThrow('another thing ended with 78 before it was ready');
    expect(told).toContain('no');
    writeFileSync(file('crash'), '');
    await vi.waitFor(() => expect(starts).toBe(3), 5000);
    expect(refusals).toEqual([]);
  });

  it('starts one again when both end', async () => {
    supervise(
      `${ready(1)}; ${untilFile(file('crash'))}; exit 3`,
      `touch '${file('crash')}'; sleep 0.3; exit 4`,
      `${ready(2)}; sleep 60`,
    );
    await supervised.start();
    await expect(supervised.replace(() => undefined)).rejects.toThrow('ended with 4');
    await vi.waitFor(() => expect(starts).toBe(3), 5000);
  });

  it('takes the place of one that dies on the way', async () => {
    supervise(
      `${ready(1)}; ${untilFile(file('crash'))}; exit 3`,
      `touch '${file('crash')}'; sleep 0.3; ${ready(2)}; sleep 60`,
    );
    await supervised.start();
    const told: string[] = [];
    expect(await supervised.replace((line) => told.push(line))).toEqual({ life: 2 });
    expect(told.at(-1)).toBe('the thing before it ended with 3');
    expect(starts).toBe(2);
  });
});
