import type { Tethered } from '@cairn/qemu';
import { CliError } from '../cli-error.js';
import { backoffMs } from './backoff.js';
import type { StackLog } from './stack-log.js';

/** One process of the stack: how it is started and how one sees that it serves. */
export interface ProcessPlan {
  name: string;
  start(onOutput: (chunk: string) => void): Tethered;
  /** Whether it is up; for processes that print a `ready` line this is left out. */
  waitUntilUp?: (isRunning: () => boolean) => Promise<void>;
  stopTimeoutMs: number;
}

/** sysexits.h EX_CONFIG: starting it again would fail again. */
const refused = 78;

const readyTimeoutMs = 60_000;

/** Keeps one process running: starts it again when it ends, each time a little later while it keeps ending. */
export class SupervisedProcess {
  private running: Tethered | undefined;
  private stopping = false;
  private restarts = 0;
  private startedAt = 0;
  private retry: NodeJS.Timeout | undefined;
  private lastLines: string[] = [];
  private announceReady: ((details: Record<string, unknown>) => void) | undefined;
  private readonly sink: (chunk: string) => void;

  constructor(
    private readonly plan: ProcessPlan,
    private readonly log: StackLog,
    /** Called once when it can never run again as it is configured. */
    private readonly onRefused: (reason: CliError) => void,
  ) {
    this.sink = log.sink(plan.name, (line) => this.read(line));
  }

  /** How often it was started again. */
  get restartCount(): number {
    return this.restarts;
  }

  /** Starts it and resolves with what its `ready` line tells. Throws CliError when it ends or says nothing. */
  async start(): Promise<Record<string, unknown>> {
    const process = this.launch();
    const { name, waitUntilUp } = this.plan;
    if (waitUntilUp) {
      await waitUntilUp(() => process.isRunning);
      return {};
    }
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(this.failure(`${name} did not become ready within ${readyTimeoutMs / 1000} s`)),
        readyTimeoutMs,
      );
    });
    const ready = new Promise<Record<string, unknown>>((resolve) => {
      this.announceReady = resolve;
    });
    const ended = process.exited.then((status) => {
      throw this.failure(`${name} ended with ${status} before it was ready`);
    });
    // A process that ends later is started again; that it ended is then no news to anybody here.
    ended.catch(() => undefined);
    try {
      return await Promise.race([ready, ended, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Stops it in good order, by force when it takes too long, and leaves it stopped. */
  async stop(): Promise<void> {
    this.stopping = true;
    clearTimeout(this.retry);
    await this.running?.stop({ timeoutMs: this.plan.stopTimeoutMs });
  }

  private launch(): Tethered {
    this.startedAt = Date.now();
    this.lastLines = [];
    const process = this.plan.start(this.sink);
    this.running = process;
    void process.exited.then((status) => this.onEnd(status));
    return process;
  }

  private onEnd(status: number): void {
    if (this.stopping) return;
    const { name } = this.plan;
    if (status === refused) {
      this.stopping = true;
      this.onRefused(this.failure(`${name} refused to start`));
      return;
    }
    const delayMs = backoffMs(this.restarts, Date.now() - this.startedAt);
    this.restarts = delayMs.attempt;
    this.log.note(`${name} ended with ${status}; starting it again in ${delayMs.delay} ms`);
    this.retry = setTimeout(() => this.launch(), delayMs.delay);
  }

  private read(line: string): boolean {
    this.lastLines = [...this.lastLines, line].slice(-8);
    if (!line.startsWith('ready {')) return false;
    try {
      this.announceReady?.(JSON.parse(line.slice('ready '.length)) as Record<string, unknown>);
      return true;
    } catch {
      return false;
    }
  }

  private failure(message: string): CliError {
    const output = this.lastLines.map((line) => `  ${line}`).join('\n');
    return new CliError(output === '' ? message : `${message}:\n${output}`);
  }
}
