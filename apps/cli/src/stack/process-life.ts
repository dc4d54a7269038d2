import type { Tethered } from '@cairn/qemu';
import { CliError } from '../cli-error.js';
import type { StackLog } from './stack-log.js';

/** One process of the stack: how it is started and how one sees that it serves. */
export interface ProcessPlan {
  name: string;
  start(onOutput: (chunk: string) => void): Tethered;
  /** Whether it is up; for processes that print a `ready` line this is left out. */
  waitUntilUp?: (isRunning: () => boolean) => Promise<void>;
  stopTimeoutMs: number;
}

const readyTimeoutMs = 60_000;

/** It has ended, or says nothing. */
export class NotReadyError extends Error {
  override readonly name = 'NotReadyError';
}

/** One process of a plan, from its start to its end. */
export class ProcessLife {
  readonly startedAt = Date.now();
  private readonly process: Tethered;
  private readonly saidReady: Promise<Record<string, unknown>>;
  private announceReady: (details: Record<string, unknown>) => void = () => undefined;
  private lastLines: string[] = [];

  /** Starts it. `onLine` hears each line that it prints, but for the one that says that it is ready. */
  constructor(
    private readonly plan: ProcessPlan,
    log: StackLog,
    private readonly onLine: (line: string) => void = () => undefined,
  ) {
    this.saidReady = new Promise((resolve) => (this.announceReady = resolve));
    this.process = plan.start(log.sink(plan.name, (line) => this.read(line)));
  }

  get isRunning(): boolean {
    return this.process.isRunning;
  }

  /** Resolves with its exit status. */
  get exited(): Promise<number> {
    return this.process.exited;
  }

  /** Resolves with what its `ready` line tells. Rejects with NotReadyError when it ends before, or says nothing for a minute. */
  async ready(): Promise<Record<string, unknown>> {
    const { name, waitUntilUp } = this.plan;
    if (waitUntilUp) {
      await waitUntilUp(() => this.isRunning);
      return {};
    }
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new NotReadyError(`${name} did not become ready within ${readyTimeoutMs / 1000} s`)),
        readyTimeoutMs,
      );
    });
    const ended = this.exited.then((status) => {
      throw new NotReadyError(`${name} ended with ${status} before it was ready`);
    });
    // A process that ends later is started again; that it ended is then no news to anybody here.
    ended.catch(() => undefined);
    try {
      return await Promise.race([this.saidReady, ended, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Stops it in good order, by force when it takes too long. */
  stop(): Promise<void> {
    return this.process.stop({ timeoutMs: this.plan.stopTimeoutMs });
  }

  /** An error that shows what it printed last. */
  failure(message: string): CliError {
    const output = this.lastLines.map((line) => `  ${line}`).join('\n');
    return new CliError(output === '' ? message : `${message}:\n${output}`);
  }

  private read(line: string): boolean {
    this.lastLines = [...this.lastLines, line].slice(-8);
    if (line.startsWith('ready {')) {
      try {
        this.announceReady(JSON.parse(line.slice('ready '.length)) as Record<string, unknown>);
        return true;
      } catch {
        // Then it is a line like any other.
      }
    }
    this.onLine(line);
    return false;
  }
}
