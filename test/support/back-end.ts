import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

/** One file served on one socket. */
export interface ExportedDisk {
  file: string;
  socket: string;
}

/** A process that serves files as vhost-user-blk, ours or another. */
export interface BackEnd {
  readonly pid: number;
  readonly disks: readonly ExportedDisk[];
  /** Whether the process has not ended. */
  isRunning(): boolean;
  /** Everything it has printed on standard error. */
  log(): string;
  /** SIGTERM; the exit code. */
  stop(): Promise<number | null>;
  /** SIGKILL, and waits for the end. */
  kill(): Promise<void>;
}

/** What to serve. */
export interface BackEndOptions {
  disks: readonly ExportedDisk[];
  numQueues?: number;
  readOnly?: boolean;
  cache?: 'direct' | 'writeback';
  serial?: string;
}

/** Starts a back-end and resolves when it listens. */
export type StartBackEnd = (options: BackEndOptions) => Promise<BackEnd>;

/** A directory of its own for a test; `remove` deletes it. */
export const scratchDirectory = (parent = tmpdir()): { path: string; remove: () => void } => {
  const path = mkdtempSync(join(parent, 'cairn-test-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
};

/** What a process holds open on account of its front-ends. */
export interface Held {
  descriptors: number;
  /** Mappings of guest memory. */
  guestMappings: number;
  /** Guest memory spans reserved without access, in whole GiB; V8's own growth is far below one. */
  virtualGiB: number;
}

/** Counts descriptors and mappings of a process from the outside. */
export const heldBy = (pid: number): Held => ({
  descriptors: readdirSync(`/proc/${pid}/fd`).length,
  guestMappings: readFileSync(`/proc/${pid}/maps`, 'utf8')
    .split('\n')
    .filter((line) => line.includes('/memfd:')).length,
  virtualGiB: Math.round(
    Number(/VmSize:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 2 ** 20,
  ),
});

/** What a process holds once it has let go of what it is about to let go of. */
export const settledHeldBy = async (pid: number): Promise<Held> => {
  let held = heldBy(pid);
  for (let same = 0; same < 6; same++) {
    await setTimeout(50);
    const now = heldBy(pid);
    if (now.descriptors !== held.descriptors || now.guestMappings !== held.guestMappings) same = 0;
    held = now;
  }
  return held;
};

/** How much more a process holds now than it did; nothing is leaked when no number is above 0. */
export const leakedBy = (pid: number, before: Held): Held => {
  const now = heldBy(pid);
  const more = (key: keyof Held) => Math.max(0, now[key] - before[key]);
  return {
    descriptors: more('descriptors'),
    guestMappings: more('guestMappings'),
    // One GiB is within what V8 may have grown by.
    virtualGiB: Math.max(0, more('virtualGiB') - 1),
  };
};

/** What `leakedBy` must come to. */
export const NOTHING_LEAKED: Held = { descriptors: 0, guestMappings: 0, virtualGiB: 0 };

/** How often the threads of a process have gone to sleep by themselves. */
export const sleepsOf = (pid: number): number =>
  readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
    return sum + Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(status)![1]);
  }, 0);

/** CPU time a process has used, in milliseconds. */
export const cpuMillis = (pid: number): number => {
  // proc(5): utime and stime are the 12th and 13th words after the command's closing parenthesis, in ticks of 10 ms.
  const words = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(words[11]) + Number(words[12])) * 10;
};

/** Follows a child process: its end, its exit code and its standard error. */
export const follow = (child: ChildProcess) => {
  let log = '';
  let ended = false;
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (log += text));
  const exit = new Promise<number | null>((resolve) =>
    child.once('exit', (code) => {
      ended = true;
      resolve(code);
    }),
  );
  return {
    exit,
    isRunning: () => !ended,
    log: () => log,
    stop: async () => {
      if (!ended) child.kill('SIGTERM');
      return exit;
    },
    kill: async () => {
      if (!ended) child.kill('SIGKILL');
      await exit;
    },
  };
};
