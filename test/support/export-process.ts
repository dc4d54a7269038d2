import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createConnection } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ExportStatus } from '@cairn/block-export';
import { follow, type BackEnd, type BackEndOptions } from './back-end.js';

const PROGRAM = fileURLToPath(new URL('../../dist/apps/cli/src/main.js', import.meta.url));
const READY_TIMEOUT_MS = 20_000;

/**
 * Starts the built `cairn export` and resolves when it has printed `ready`.
 *
 * `args` go at the end of the command line; `limit` is a `ulimit` to live under. Throws with what it printed when it ends or stays silent instead.
 */
export const startExport = async (
  options: BackEndOptions & { args?: readonly string[]; limit?: string },
): Promise<BackEnd> => {
  const { disks, numQueues, readOnly, cache, serial, args = [], limit } = options;
  if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} does not exist: run \`npm run build\` first`);
  const commandLine = [PROGRAM, 'export'];
  for (const { file, socket } of disks) commandLine.push('--file', file, '--socket', socket);
  if (numQueues !== undefined) commandLine.push('--num-queues', String(numQueues));
  if (readOnly) commandLine.push('--read-only');
  if (cache) commandLine.push('--cache', cache);
  if (serial !== undefined) commandLine.push('--serial', serial);

  const program = [process.execPath, ...commandLine, ...args];
  const [command, ...rest] =
    limit === undefined ? program : ['sh', '-c', `${limit} && exec "$@"`, 'sh', ...program];
  const child = spawn(command!, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
  const followed = follow(child);
  await new Promise<void>((resolve, reject) => {
    let printed = '';
    const fail = (why: string) => reject(new Error(`cairn export ${why}: ${printed}${followed.log()}`));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail(`did not get ready within ${READY_TIMEOUT_MS} ms`);
    }, READY_TIMEOUT_MS);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      printed += text;
      if (!/^ready\b.*\n/m.test(printed)) return;
      clearTimeout(timer);
      resolve();
    });
    void followed.exit.then((code) => {
      clearTimeout(timer);
      fail(`ended with ${code}`);
    });
  });
  return { pid: child.pid!, disks, ...followed };
};

/** Runs the built `cairn resize`; throws with what it printed when it fails. */
export const resizeExport = async (control: string, sizeBytes: number, file: string): Promise<void> => {
  const commandLine = [PROGRAM, 'resize', '--control', control, '--file', file, String(sizeBytes)];
  await promisify(execFile)(process.execPath, commandLine);
};

/** What a running `cairn export --control` answers to a request; throws with what it says when it refuses. */
const ask = (control: string, request: object): Promise<unknown> =>
  new Promise((resolve, reject) => {
    let text = '';
    const socket = createConnection(control, () => socket.write(`${JSON.stringify(request)}\n`));
    socket.setEncoding('utf8').on('data', (part: string) => (text += part));
    socket.on('error', reject);
    socket.on('end', () => {
      const { result, error } = JSON.parse(text) as { result?: unknown; error?: string };
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    });
  });

/** What a running `cairn export --control` tells of its first disk. */
export const statusOf = async (control: string): Promise<ExportStatus> =>
  ((await ask(control, { verb: 'status' })) as { exports: ExportStatus[] }).exports[0]!;

/** Has a running `cairn export --control` announce a greater size, as `resizeExport` does without its process. */
export const announceSize = async (control: string, sizeBytes: number, file: string): Promise<void> => {
  await ask(control, { verb: 'resize', file, sizeBytes });
};

/** Runs the built `cairn limit`; throws with what it printed when it fails. */
export const limitExport = async (control: string, file: string, iops: number): Promise<void> => {
  const commandLine = [PROGRAM, 'limit', '--control', control, '--file', file, '--iops', String(iops)];
  await promisify(execFile)(process.execPath, commandLine);
};
