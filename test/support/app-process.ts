import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** One of the built apps. */
export type AppName = 'control-plane' | 'worker' | 'data-plane';

/** How an app ended. */
export interface AppExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

const readyTimeoutMs = 60_000;

/** The built app, seen from the source of this file, and from what it was itself built to. */
const programOf = (app: AppName): string =>
  ['../../dist/apps', '../../apps']
    .map((apps) => fileURLToPath(new URL(`${apps}/${app}/src/main.js`, import.meta.url)))
    .find((program, index, { length }) => index === length - 1 || existsSync(program))!;

/** A built app as a real child process, which can be killed and started again with the same settings. */
export class AppProcess {
  private child: ChildProcess | undefined;
  private ended: Promise<AppExit> = Promise.resolve({ code: null, signal: null });
  private output = '';

  constructor(
    readonly app: AppName,
    readonly env: Readonly<Record<string, string>>,
  ) {}

  /** Everything it has printed, over all its starts. */
  get log(): string {
    return this.output;
  }

  get pid(): number {
    if (this.child?.pid === undefined) throw new Error(`${this.app} was never started`);
    return this.child.pid;
  }

  get isRunning(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Starts it, with more settings for this once, and resolves when it is ready. Throws with its log when it ends instead. */
  async start(extraEnv: Readonly<Record<string, string>> = {}): Promise<void> {
    const from = this.output.length;
    const exit = this.launch(extraEnv);
    const deadline = Date.now() + readyTimeoutMs;
    let ended: AppExit | undefined;
    void exit.then((how) => (ended = how));
    while (!/^ready /m.test(this.output.slice(from))) {
      if (ended !== undefined)
        throw new Error(`${this.app} ended with ${JSON.stringify(ended)}:\n${this.output.slice(from)}`);
      if (Date.now() > deadline)
        throw new Error(`${this.app} did not get ready:\n${this.output.slice(from)}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Starts it and resolves when it has ended by itself: for starts that are refused. */
  async startAndEnd(extraEnv: Readonly<Record<string, string>> = {}): Promise<AppExit & { log: string }> {
    const from = this.output.length;
    const exit = await this.launch(extraEnv);
    return { ...exit, log: this.output.slice(from) };
  }

  /** Resolves when it has ended, whatever ends it. */
  exited(): Promise<AppExit> {
    return this.ended;
  }

  /** SIGTERM, and waits for the end. */
  stop(): Promise<AppExit> {
    if (this.isRunning) this.child?.kill('SIGTERM');
    return this.ended;
  }

  /** SIGKILL, and waits for the end. */
  kill(): Promise<AppExit> {
    if (this.isRunning) this.child?.kill('SIGKILL');
    return this.ended;
  }

  private launch(extraEnv: Readonly<Record<string, string>>): Promise<AppExit> {
    if (this.isRunning) throw new Error(`${this.app} runs already`);
    const program = programOf(this.app);
    if (!existsSync(program)) throw new Error(`${program} does not exist: run \`npm run build\` first`);
    const { PATH = '', HOME = '' } = process.env;
    const child = spawn(process.execPath, ['--enable-source-maps', program], {
      env: { PATH, HOME, ...this.env, ...extraEnv },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
    this.ended = new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => resolve({ code, signal }));
    });
    return this.ended;
  }
}
