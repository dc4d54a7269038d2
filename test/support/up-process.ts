import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { eventually } from './stack.js';

/** The repository. */
export const root = fileURLToPath(new URL('../../', import.meta.url));
/** The built command line. */
export const program = join(root, 'dist/apps/cli/src/main.js');

/** A `cairn up`, what it printed, and how it ended. */
export class Up {
  output = '';
  readonly exited: Promise<number | null>;
  private readonly child: ChildProcess;

  constructor(readonly directory: string) {
    const { PATH = '', HOME = '' } = process.env;
    this.child = spawn(process.execPath, [program, 'up', '--data-dir', directory], {
      env: { PATH, HOME, CAIRN_AGENT_PORT: '0' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
    this.exited = new Promise((resolve) => {
      this.child.once('exit', (code) => resolve(code));
    });
  }

  /** Resolves when it has printed that it is up. Throws with its output when it ends instead. */
  async isUp(): Promise<this> {
    let ended = false;
    void this.exited.then(() => (ended = true));
    await eventually('Cairn is up', () => ended || this.output.includes('Cairn is up'), 120_000);
    if (ended) throw new Error(`cairn up ended:\n${this.output}`);
    return this;
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }
}

/** Processes whose settings or arguments name the directory: all that belongs to a stack, but not its supervisor. */
export function processesOf(directory: string, name = ''): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      if (!Number.isInteger(pid) || pid === 0) return false;
      try {
        const text =
          readFileSync(`/proc/${pid}/environ`, 'latin1') + readFileSync(`/proc/${pid}/cmdline`, 'latin1');
        return text.includes(directory) && text.includes(name);
      } catch {
        return false;
      }
    });
}

/** The one process, not the shell that guards it, that runs an app of the stack. */
export const appOf = (directory: string, app: string): number =>
  processesOf(directory, `${app}/src/main.js`).find((pid) =>
    readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('node'),
  )!;
