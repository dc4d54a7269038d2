import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

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

/** What a process holds open: number of descriptors, and of mappings of memfds or other memory somebody shared. */
export const heldBy = (pid: number): { descriptors: number; sharedMappings: number } => ({
  descriptors: readdirSync(`/proc/${pid}/fd`).length,
  sharedMappings: readFileSync(`/proc/${pid}/maps`, 'utf8')
    .split('\n')
    .filter((line) => line.includes('/memfd:fake-guest')).length,
});

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
