import { setTimeout as sleep } from 'node:timers/promises';
import { CliError } from '../cli-error.js';
import { backoffMs } from './backoff.js';
import { NotReadyError, ProcessLife, type ProcessPlan } from './process-life.js';
import type { StackLog } from './stack-log.js';

/** sysexits.h EX_CONFIG: starting it again would fail again. */
const refused = 78;

/** How long one that was replaced may take to end before somebody is told; it may wait for a disk. */
const leavesWithinMs = 30_000;

/** Keeps one process running: starts it again when it ends, each time a little later while it keeps ending. */
export class SupervisedProcess {
  private current: ProcessLife | undefined;
  /** Takes the place of the one that runs, once it is ready. */
  private next: ProcessLife | undefined;
  /** Those whose place was taken, until they have ended. */
  private readonly leaving = new Set<ProcessLife>();
  private stopping = false;
  private restarts = 0;
  private retry: NodeJS.Timeout | undefined;

  constructor(
    private readonly plan: ProcessPlan,
    private readonly log: StackLog,
    /** Called once when it can never run again as it is configured. */
    private readonly onRefused: (reason: CliError) => void,
  ) {}

  get name(): string {
    return this.plan.name;
  }

  /** Starts it and resolves with what its `ready` line tells. Throws CliError when it ends or says nothing. */
  async start(): Promise<Record<string, unknown>> {
    const life = this.launch();
    try {
      return await life.ready();
    } catch (error) {
      throw error instanceof NotReadyError ? life.failure(error.message) : error;
    }
  }

  /**
   * Starts another one beside the one that runs, which ends by itself when the other has taken over. Resolves with what the
   * `ready` line of the other tells, and when the first has ended; `tell` hears what happens meanwhile, and each line of
   * the other.
   *
   * Throws CliError when the other does not get ready; then the one that ran goes on, and is kept running as before.
   */
  async replace(tell: (line: string) => void): Promise<Record<string, unknown>> {
    const { name } = this.plan;
    const before = this.current;
    if (this.next) throw new CliError(`another ${name} is taking over already`);
    if (this.stopping || !before?.isRunning)
      throw new CliError(`${name} does not run now`, 'Try again when it does; its log tells more.');
    const say = (line: string): void => {
      this.log.note(line);
      tell(line);
    };
    say(`starting another ${name} beside the one that runs`);
    const next: ProcessLife = new ProcessLife(this.plan, this.log, (line) => {
      if (this.next === next) tell(line);
    });
    this.next = next;
    let details: Record<string, unknown>;
    try {
      details = await next.ready();
    } catch (error) {
      await next.stop();
      this.next = undefined;
      // Nobody has looked after it meanwhile.
      if (!before.isRunning) this.onEnd(before, await before.exited);
      if (!(error instanceof NotReadyError)) throw error;
      throw new CliError(
        `another ${error.message}`,
        `The one that ran before goes on; what the other printed tells why.`,
      );
    }
    this.next = undefined;
    this.keep(next);
    say(`the new ${name} has taken over`);
    await this.leave(before, say);
    return details;
  }

  /** Stops it in good order, by force when it takes too long, and leaves it stopped. */
  async stop(): Promise<void> {
    this.stopping = true;
    clearTimeout(this.retry);
    await Promise.all([this.next, this.current, ...this.leaving].map(async (life) => life?.stop()));
  }

  private launch(): ProcessLife {
    return this.keep(new ProcessLife(this.plan, this.log));
  }

  private keep(life: ProcessLife): ProcessLife {
    this.current = life;
    void life.exited.then((status) => this.onEnd(life, status));
    return life;
  }

  /** Waits for the end of one whose place was taken, for a while. */
  private async leave(life: ProcessLife, say: (line: string) => void): Promise<void> {
    const { name } = this.plan;
    this.leaving.add(life);
    const ended = life.exited.then((status) => {
      this.leaving.delete(life);
      say(status === 0 ? `the ${name} before it has ended` : `the ${name} before it ended with ${status}`);
    });
    const late = new AbortController();
    const waited = sleep(leavesWithinMs, 'late', { signal: late.signal }).catch(() => undefined);
    const first = await Promise.race([ended, waited]);
    late.abort();
    if (first === 'late') say(`the ${name} before it still has something to complete`);
  }

  private onEnd(life: ProcessLife, status: number): void {
    if (this.stopping || this.next || life !== this.current) return;
    const { name } = this.plan;
    if (status === refused) {
      this.stopping = true;
      this.onRefused(life.failure(`${name} refused to start`));
      return;
    }
    const delayMs = backoffMs(this.restarts, Date.now() - life.startedAt);
    this.restarts = delayMs.attempt;
    this.log.note(`${name} ended with ${status}; starting it again in ${delayMs.delay} ms`);
    this.retry = setTimeout(() => this.launch(), delayMs.delay);
  }
}
