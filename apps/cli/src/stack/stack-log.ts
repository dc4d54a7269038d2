import { appendFileSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** A log file past this size is set aside at the next start. */
const maxLogBytes = 16 * 1024 * 1024;

/** Where the output of the stack's processes goes: a file each, and the terminal with the name before each line. */
export class StackLog {
  constructor(
    private readonly directory: string,
    private readonly print: (line: string) => void,
  ) {}

  /** A sink for one process's output; it is called with pieces of any size and tells whole lines. */
  sink(name: string, onLine: (line: string) => boolean | void = () => undefined): (chunk: string) => void {
    const file = join(this.directory, `${name}.log`);
    setAsideIfLarge(file);
    let rest = '';
    return (chunk) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        appendFileSync(file, `${line}\n`);
        if (onLine(line) !== true) this.print(`${name.padEnd(13)} | ${line}`);
      }
    };
  }

  /** A line of the supervisor itself. */
  note(line: string): void {
    appendFileSync(join(this.directory, 'supervisor.log'), `${new Date().toISOString()} ${line}\n`);
    this.print(`${'supervisor'.padEnd(13)} | ${line}`);
  }
}

function setAsideIfLarge(file: string): void {
  try {
    if (statSync(file).size > maxLogBytes) renameSync(file, `${file}.1`);
  } catch {
    // There is none yet.
  }
}
