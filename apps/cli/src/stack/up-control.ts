import { chmodSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline/promises';
import { CliError } from '../cli-error.js';

// What other commands ask of a running `cairn up`, one line of JSON each: the request {"verb": "reload"}, then the answer's
// {"progress": "…"} as often as there is some, and {"done": true} or {"error": "…", "remedy": "…"} at the end.

/** Does what `cairn reload` asks for, and tells what happens meanwhile. Throws CliError. */
export type Reload = (tell: (line: string) => void) => Promise<void>;

/** Listens on a socket of mode 0600; returns what ends that. Whoever calls has the data directory's lock. */
export async function openUpControl(path: string, reload: Reload): Promise<() => void> {
  rmSync(path, { force: true });
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    // What has begun goes on when whoever asked is gone.
    socket.on('error', () => socket.destroy());
    void answer(socket, reload);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  chmodSync(path, 0o600);
  return () => server.close();
}

/** Has a running `cairn up` reload. Throws CliError when there is none, or when it fails. */
export async function askReload(
  path: string,
  directory: string,
  tell: (line: string) => void,
): Promise<void> {
  const socket = await connect(path, directory);
  socket.write(`${JSON.stringify({ verb: 'reload' })}\n`);
  for await (const line of createInterface({ input: socket })) {
    const { progress, error, remedy, done } = JSON.parse(line) as Record<string, string | undefined>;
    if (progress !== undefined) tell(progress);
    if (error !== undefined) throw new CliError(error, remedy);
    if (done !== undefined) return;
  }
  throw new CliError(`'cairn up' on ${directory} ended before it had answered`);
}

async function answer(socket: Socket, reload: Reload): Promise<void> {
  const say = (line: object): void => void socket.write(`${JSON.stringify(line)}\n`);
  for await (const line of createInterface({ input: socket })) {
    try {
      if (verbIn(line) !== 'reload') throw new CliError(`unknown request ${line.slice(0, 100)}`);
      await reload((progress) => say({ progress }));
      say({ done: true });
    } catch (error) {
      const known = error instanceof CliError;
      say({ error: known ? error.message : String(error), ...(known && { remedy: error.remedy }) });
    }
    socket.end();
    return;
  }
}

function verbIn(line: string): unknown {
  try {
    const request = JSON.parse(line) as unknown;
    return typeof request === 'object' && request !== null && 'verb' in request ? request.verb : undefined;
  } catch {
    return undefined;
  }
}

function connect(path: string, directory: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path, () => resolve(socket));
    socket.once('error', (cause: NodeJS.ErrnoException) => {
      const nobody = cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED';
      const message = nobody
        ? `no 'cairn up' runs on ${directory}`
        : `cannot reach the 'cairn up' that runs on ${directory}: ${cause.message}`;
      const remedy = nobody
        ? 'Start it, or name the data directory of one that runs with --data-dir or CAIRN_DATA_DIR.'
        : undefined;
      reject(new CliError(message, remedy, { cause }));
    });
  });
}
