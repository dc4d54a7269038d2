import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { follow } from '../support/back-end.js';
import { pinnedTo } from './pinning.js';

/** What a back-end serves: a file through or past the page cache, or bytes that nobody keeps. */
export interface Medium {
  file?: string;
  direct?: boolean;
  sizeBytes: number;
}

/** A running back-end, pinned to its core. */
export interface RunningBackEnd {
  readonly pid: number;
  readonly socket: string;
  /** What it has printed on standard output so far. */
  output(): string;
  stop(): Promise<void>;
}

/** A back-end that can be measured. */
export interface Peer {
  readonly name: string;
  /** Serves no more than one queue. */
  readonly oneQueue?: boolean;
  /** Locks its file against others of its kind, so that each needs one of its own. */
  readonly locksFile?: boolean;
  /** The command line that serves `medium` on `socket`. */
  command(medium: Medium, socket: string, queues: number): string[];
}

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const CAIRN = here('../../apps/cli/src/main.js');
const BARE_LOOP = here('bare-loop');
const READY_TIMEOUT_MS = 20_000;

/** Our export; `before` goes before Node.js on the command line, `nodeFlags` before the program. */
export const cairn = (
  name = 'cairn',
  { before = [], nodeFlags = [] }: { before?: readonly string[]; nodeFlags?: readonly string[] } = {},
): Peer => ({
  name,
  locksFile: true,
  command: ({ file, direct, sizeBytes }, socket, queues) => [
    ...before,
    process.execPath,
    ...nodeFlags,
    CAIRN,
    'export',
    ...(file === undefined ? ['--null', `${sizeBytes}`] : ['--file', file]),
    '--socket',
    socket,
    '--num-queues',
    `${queues}`,
    '--reactors',
    '1',
    '--cache',
    direct ? 'direct' : 'writeback',
  ],
});

/** Our export with idle volumes beside the one that is measured. */
export const cairnOf = (idle: readonly { file: string; socket: string }[]): Peer => ({
  name: 'cairn',
  command: (medium, socket, queues) => [
    ...cairn().command(medium, socket, queues),
    ...idle.flatMap((volume) => ['--file', volume.file, '--socket', volume.socket]),
  ],
});

/** QEMU's back-end, with an I/O thread and io_uring. */
export const storageDaemon: Peer = {
  name: 'QSD',
  command: ({ file, direct, sizeBytes }, socket, queues) => [
    'qemu-storage-daemon',
    '--object',
    'iothread,id=t',
    '--blockdev',
    file === undefined
      ? `driver=null-co,node-name=n,size=${sizeBytes},read-zeroes=off`
      : // Without locks, because the other back-ends have the same file open.
        `driver=file,node-name=n,filename=${file},aio=io_uring,locking=off,cache.direct=${direct ? 'on' : 'off'}`,
    '--export',
    'type=vhost-user-blk,id=e,node-name=n,addr.type=unix,writable=on,iothread=t,' +
      `addr.path=${socket},num-queues=${queues}`,
  ],
};

/** The loop of our hot path in C, without anything around it. */
export const bareLoop: Peer = {
  name: 'bare loop in C',
  oneQueue: true,
  command: ({ file, direct, sizeBytes }, socket) => [
    BARE_LOOP,
    socket,
    ...(file === undefined ? [] : [file]),
    ...(file === undefined ? [`${sizeBytes}`] : direct ? ['direct'] : []),
  ],
};

let sockets = 0;

/** Starts a back-end and resolves when it listens. Throws with what it printed when it ends instead. */
export const startPeer = async (
  peer: Peer,
  medium: Medium,
  { directory, queues = 1, core }: { directory: string; queues?: number; core: number },
): Promise<RunningBackEnd> => {
  const socket = join(directory, `${(sockets += 1)}.sock`);
  const [program, ...args] = pinnedTo(core, peer.command(medium, socket, queues));
  const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  const { isRunning, log, stop } = follow(child);
  const deadline = performance.now() + READY_TIMEOUT_MS;
  while (!existsSync(socket)) {
    if (!isRunning()) throw new Error(`${peer.name} ended: ${log()}${output}`);
    if (performance.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`${peer.name} does not listen: ${log()}${output}`);
    }
    await setTimeout(20);
  }
  return { pid: child.pid!, socket, output: () => output, stop: async () => void (await stop()) };
};
