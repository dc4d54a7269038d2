import { linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { CliError } from '../cli-error.js';

/**
 * Takes the lock file of a data directory, and returns what releases it.
 *
 * The file names its holder by pid and start time, so a lock left by a process that was killed is taken over. Throws
 * CliError when the holder lives.
 */
export function takeLock(file: string, directory: string): () => void {
  const mine = `${file}.${process.pid}`;
  writeFileSync(mine, identityOf(process.pid));
  try {
    for (let attempt = 0; !tryLink(mine, file); attempt++) {
      const holder = readOrEmpty(file);
      if (attempt > 3 || (holder !== '' && holder === identityOf(Number(holder.split(' ')[0])))) {
        throw new CliError(
          `process ${holder.split(' ')[0]} already runs a stack on ${directory}`,
          'Stop that one, or give this one a directory of its own with --data-dir or CAIRN_DATA_DIR.',
        );
      }
      rmSync(file, { force: true });
    }
  } finally {
    rmSync(mine, { force: true });
  }
  return () => rmSync(file, { force: true });
}

/** link(2) makes the lock together with its content, so nobody reads it half written. */
function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Pid and start time (proc(5), field 22): a pid alone may belong to another process by now. */
function identityOf(pid: number): string {
  const stat = readOrEmpty(`/proc/${pid}/stat`);
  return `${pid} ${stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''}`;
}

function readOrEmpty(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
