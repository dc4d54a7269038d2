import { unlinkSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import {
  ensureVolumeFile,
  type ExportSpec,
  type ExportStatus,
  type RateLimits,
  type Reactors,
  type ReactorStatus,
} from '@cairn/block-export';
import { CliError } from '../cli-error.js';
import { type ControlRequest, parseControlRequest } from './control-request.js';

// One line of JSON each way: a request is answered with {"result": …} or {"error": "…"}.

const MAX_LINE_BYTES = 1024 * 1024;
const TIMEOUT_MS = 10_000;

/** What each verb answers with. */
export interface ControlResults {
  resize: { file: string; sizeBytes: number };
  limit: { file: string; limits: RateLimits };
  status: { exports: (ExportStatus & { file: string })[]; reactors: ReactorStatus[] };
}

/** Listens on a socket of mode 0600 for requests about the exports; returns what ends that. */
export async function openControl(
  path: string,
  reactors: Reactors,
  specs: readonly ExportSpec[],
): Promise<() => void> {
  // Whoever says no more after the request, as a pipe into `nc -U` does, still gets the answer.
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
    socket.on('error', () => socket.destroy());
    readLine(socket)
      .then((line) => obey(parseControlRequest(line), reactors, specs))
      .then(
        (result) => socket.end(`${JSON.stringify({ result })}\n`),
        (error: unknown) => socket.end(`${JSON.stringify({ error: messageOf(error) })}\n`),
      );
  });
  await listen(server, path);
  return () => server.close();
}

/** Asks a running `cairn export`. Throws CliError when it is not there or refuses. */
export async function askControl<Verb extends keyof ControlResults>(
  path: string,
  request: ControlRequest & { verb: Verb },
): Promise<ControlResults[Verb]> {
  const socket = await connect(path);
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('no answer')));
  socket.write(`${JSON.stringify(request)}\n`);
  const answer = JSON.parse(await readLine(socket)) as { error?: string; result: ControlResults[Verb] };
  socket.end();
  if (answer.error !== undefined) throw new CliError(`cannot ${request.verb}: ${answer.error}`);
  return answer.result;
}

const obey = async (
  request: ControlRequest,
  reactors: Reactors,
  specs: readonly ExportSpec[],
): Promise<ControlResults[keyof ControlResults]> => {
  if (request.verb === 'status') {
    const files = new Map(specs.map((spec) => [spec.id, spec.filePath]));
    const statuses = await reactors.statuses();
    return {
      exports: statuses.map((status) => ({ ...status, file: files.get(status.id) ?? status.id })),
      reactors: reactors.reactorStatuses(),
    };
  }
  const spec = chosen(specs, request.file);
  if (request.verb === 'limit') {
    reactors.limitExport(spec.id, request.limits);
    return { file: spec.filePath, limits: request.limits };
  }
  const before = await reactors.status(spec.id);
  if (before && request.sizeBytes < before.sizeBytes)
    throw new Error(`${spec.filePath} has ${before.sizeBytes} bytes; volumes never shrink`);
  if (spec.nullBytes === undefined) ensureVolumeFile(spec.filePath, request.sizeBytes);
  await reactors.resizeExport(spec.id, request.sizeBytes);
  return { file: spec.filePath, sizeBytes: request.sizeBytes };
};

const chosen = (specs: readonly ExportSpec[], file: string | undefined): ExportSpec => {
  const [only] = specs;
  if (file === undefined && specs.length === 1 && only) return only;
  const named = specs.find((spec) => spec.filePath === file);
  if (named) return named;
  throw new Error(`say which file with --file: ${specs.map((spec) => spec.filePath).join(', ')}`);
};

const readLine = (socket: Socket): Promise<string> =>
  new Promise((resolve, reject) => {
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (part: string) => {
      text += part;
      const end = text.indexOf('\n');
      if (end >= 0) resolve(text.slice(0, end));
      else if (text.length > MAX_LINE_BYTES) reject(new Error('the request is too long'));
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the connection was closed before a whole line came')));
  });

const connect = (path: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('connect', () => resolve(socket));
    socket.once('error', (cause: NodeJS.ErrnoException) =>
      reject(
        new CliError(`nobody listens on ${path} (${cause.code})`, "start 'cairn export' with --control", {
          cause,
        }),
      ),
    );
  });

/** Listens with mode 0600; a socket that a dead process left behind is replaced. */
const listen = async (server: Server, path: string): Promise<void> => {
  const attempt = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const umask = process.umask(0o177);
      server.once('error', reject);
      server.listen(path, () => {
        server.off('error', reject);
        resolve();
      });
      process.umask(umask);
    });
  try {
    await attempt();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    const inUse = await connect(path).then(
      (socket) => !socket.destroy().connecting,
      () => false,
    );
    if (inUse) throw new CliError(`another process listens on ${path}`, 'choose another --control path');
    unlinkSync(path);
    await attempt();
  }
};

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
