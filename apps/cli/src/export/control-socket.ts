import { unlinkSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { ensureVolumeFile, type ExportSpec, type Reactor } from '@cairn/block-export';
import { CliError } from '../cli-error.js';

// One line of JSON each way: {"sizeBytes": …, "file": …} is answered with {"file": …, "sizeBytes": …} or {"error": …}.

const MAX_LINE_BYTES = 64 * 1024;
const TIMEOUT_MS = 10_000;
const SECTOR_BYTES = 512;

/** What `cairn resize` asks for. */
export interface ResizeRequest {
  sizeBytes: number;
  file?: string;
}

/** Listens on a socket of mode 0600 for resize requests; returns what ends that. */
export async function openControl(
  path: string,
  reactor: Reactor,
  specs: readonly ExportSpec[],
): Promise<() => void> {
  const sizes = new Map<string, number>();
  for (const status of await reactor.statuses()) sizes.set(status.id, status.sizeBytes);
  const resize = async (request: ResizeRequest): Promise<{ file: string; sizeBytes: number }> => {
    const spec = chosen(specs, request.file);
    const before = sizes.get(spec.id)!;
    if (request.sizeBytes % SECTOR_BYTES !== 0)
      throw new Error(`the size must be a multiple of ${SECTOR_BYTES} bytes`);
    if (request.sizeBytes < before)
      throw new Error(`${spec.filePath} has ${before} bytes; volumes never shrink`);
    ensureVolumeFile(spec.filePath, request.sizeBytes);
    await reactor.resizeExport(spec.id, request.sizeBytes);
    sizes.set(spec.id, request.sizeBytes);
    return { file: spec.filePath, sizeBytes: request.sizeBytes };
  };
  const server = createServer((socket) => {
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
    socket.on('error', () => socket.destroy());
    readLine(socket)
      .then((line) => resize(parseRequest(line)))
      .then(
        (grown) => socket.end(`${JSON.stringify(grown)}\n`),
        (error: unknown) => socket.end(`${JSON.stringify({ error: messageOf(error) })}\n`),
      );
  });
  await listen(server, path);
  return () => server.close();
}

/** Asks a running `cairn export` to grow a file. Throws CliError when it is not there or refuses. */
export async function requestResize(
  path: string,
  request: ResizeRequest,
): Promise<{ file: string; sizeBytes: number }> {
  const socket = await connect(path);
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('no answer')));
  socket.write(`${JSON.stringify(request)}\n`);
  const answer = JSON.parse(await readLine(socket)) as { error?: string; file: string; sizeBytes: number };
  socket.end();
  if (answer.error !== undefined) throw new CliError(`cannot resize: ${answer.error}`);
  return answer;
}

const chosen = (specs: readonly ExportSpec[], file: string | undefined): ExportSpec => {
  const [only] = specs;
  if (file === undefined && specs.length === 1 && only) return only;
  const named = specs.find((spec) => spec.filePath === file);
  if (named) return named;
  throw new Error(`say which file with --file: ${specs.map((spec) => spec.filePath).join(', ')}`);
};

const parseRequest = (line: string): ResizeRequest => {
  const value: unknown = JSON.parse(line);
  if (typeof value !== 'object' || value === null) throw new Error('a request is a JSON object');
  const { sizeBytes, file, ...rest } = value as Record<string, unknown>;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw new Error(`unknown field '${unknown}'`);
  if (typeof sizeBytes !== 'number' || !Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
    throw new Error('sizeBytes must be a whole number above 0');
  }
  if (file !== undefined && typeof file !== 'string') throw new Error('file must be a string');
  return { sizeBytes, ...(file !== undefined && { file }) };
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
