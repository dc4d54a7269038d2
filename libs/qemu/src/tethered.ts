import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import type { Writable } from 'node:stream';

/**
 * Runs "$@" until it ends or descriptor 3 does, whichever comes first. Descriptor 3 is a pipe that only the parent
 * holds, so it ends when the parent lets go of it or dies, even by SIGKILL.
 */
const guard = `
signal=$1; shift
"$@" 3<&- &
program=$!
{
  cat <&3; kill -"$signal" "$program"
  seconds=0; while [ $seconds -lt 30 ] && kill -0 "$program"; do sleep 1; seconds=$((seconds + 1)); done
  kill -KILL "$program"
} >/dev/null 2>&1 &
watcher=$!
wait "$program"; status=$?
kill "$watcher" 2>/dev/null
exit "$status"
`;

/** Options of a tethered program. */
export interface TetherOptions {
  /** What asks the program to end in good order. */
  stopSignal: 'INT' | 'TERM';
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  uid?: number;
  gid?: number;
}

/**
 * A program that ends when this process does, however this process ends.
 *
 * It runs in a session of its own, so Ctrl-C in a terminal reaches only the parent, which then stops things in order.
 */
export class Tethered {
  /** Resolves with the exit status, or 128 + n for a signal, once the program is gone. */
  readonly exited: Promise<number>;
  private running = true;

  private constructor(private readonly child: ChildProcess) {
    this.exited = new Promise((resolve) => {
      child.once('error', () => this.ended(resolve, 127));
      child.once('exit', (code) => this.ended(resolve, code ?? 128));
    });
  }

  /** Starts the program; its output goes to the given sinks line by line as it comes. */
  static start(
    command: string,
    args: readonly string[],
    onOutput: (chunk: string) => void,
    { stopSignal, ...rest }: TetherOptions,
  ): Tethered {
    const options: SpawnOptions = { ...rest, detached: true, stdio: ['ignore', 'pipe', 'pipe', 'pipe'] };
    const child = spawn('/bin/sh', ['-c', guard, 'sh', stopSignal, command, ...args], options);
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', onOutput);
    }
    // The far end may close first; that is no error of ours.
    child.stdio[3]?.on('error', () => undefined);
    return new Tethered(child);
  }

  /** Whether the program has not ended yet. */
  get isRunning(): boolean {
    return this.running;
  }

  /** Asks the program to end, and ends it and everything it started by force after `timeoutMs`. */
  async stop({ timeoutMs = 15_000 }: { timeoutMs?: number } = {}): Promise<void> {
    if (!this.running) return;
    (this.child.stdio[3] as Writable | null)?.destroy();
    const timer = setTimeout(() => this.kill(), timeoutMs);
    await this.exited;
    clearTimeout(timer);
  }

  /** Ends the program at once. */
  kill(): void {
    if (!this.running || this.child.pid === undefined) return;
    try {
      process.kill(-this.child.pid, 'SIGKILL');
    } catch {
      // It ended a moment ago and its exit event is on the way.
    }
  }

  private ended(resolve: (status: number) => void, status: number): void {
    this.running = false;
    (this.child.stdio[3] as Writable | null)?.destroy();
    resolve(status);
  }
}
