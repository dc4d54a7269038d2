import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const lookEveryMs = 10;

/**
 * Another process on this host, of which the end matters.
 *
 * A connection of a killed process breaks while the kernel still closes the rest of what it had open and waits for its
 * I/O. Only when its last thread has gone is all that over.
 */
export class OtherProcess {
  private constructor(
    private readonly pid: number,
    /** What tells it from a later process with the same id; undefined when it had ended already. */
    private readonly startTime: string | undefined,
  ) {}

  static async of(pid: number): Promise<OtherProcess> {
    return new OtherProcess(pid, (await statOf(pid))?.startTime);
  }

  /** Resolves when it has ended, and nothing that it had open or in flight is left. */
  async ended(): Promise<void> {
    while (await this.runs()) await sleep(lookEveryMs);
  }

  private async runs(): Promise<boolean> {
    const stat = await statOf(this.pid);
    if (!stat || stat.startTime !== this.startTime) return false;
    // Nobody has asked yet how it ended, or its first thread has ended before the others.
    return stat.state !== 'Z' || (await threadsOf(this.pid)) > 1;
  }
}

/** proc(5), /proc/pid/stat: the third field is the state, the 22nd the start time; the second may hold anything. */
const statOf = async (pid: number): Promise<{ state: string; startTime: string } | undefined> => {
  const text = await unlessGone(readFile(`/proc/${pid}/stat`, 'latin1'));
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ');
  const [state, startTime] = [fields?.[0], fields?.[19]];
  return state === undefined || startTime === undefined ? undefined : { state, startTime };
};

const threadsOf = async (pid: number): Promise<number> =>
  (await unlessGone(readdir(`/proc/${pid}/task`)))?.length ?? 0;

const unlessGone = async <T>(reading: Promise<T>): Promise<T | undefined> => {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH'))
      return undefined;
    throw error;
  }
};
