import { basename } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import {
  type CacheMode,
  DEFAULT_POLL_MICROS,
  defaultReactors,
  ensureVolumeFile,
  type ExportSpec,
  isLimited,
  lockVolumeFile,
  MAX_POLL_MICROS,
  MAX_REACTORS,
  Reactors,
} from '@cairn/block-export';
import { CliError } from '../cli-error.js';
import { sizeInBytes } from '../whole-number.js';
import { askControl, openControl } from './control-socket.js';
import { type LimitOptions, limitsOf, withLimitOptions } from './limit.options.js';

const MAX_QUEUES = 64;
const SERIAL_BYTES = 20;
const DRAIN_MS = 30_000;

interface ExportOptions extends LimitOptions {
  size?: number;
  readOnly?: boolean;
  numQueues: number;
  cache: CacheMode;
  control?: string;
  pollMicros: number;
  reactors: number;
}

/** What is served: a file, or bytes that nobody keeps. */
type Source = Pick<ExportSpec, 'filePath' | 'nullBytes'>;

const exportHelp = `
The file is plain: offset in the volume = offset in the file. --file and one of --socket, --socket-fd may be given
several times, in pairs; the other options hold for all of them, and --serial for each file in turn.
'ready' on standard output says that every socket listens. SIGTERM and SIGINT let requests in flight complete, flush
the file and end with status 0.

  cairn export --file disk.img --size 10G --socket /run/cairn/disk.sock
  qemu-system-x86_64 -machine q35,memory-backend=m -object memory-backend-memfd,id=m,size=2G,share=on \\
    -chardev socket,id=c,path=/run/cairn/disk.sock,reconnect=1 -device vhost-user-blk-pci,chardev=c …`;

/** `cairn export`: serve files as vhost-user-blk, with no control plane at all. */
export function exportCommand(): Command {
  const sources: Source[] = [];
  const sockets: { socketPath?: string; socketFd?: number }[] = [];
  const serials: string[] = [];
  const command = new Command('export')
    .description('serve sparse files as vhost-user-blk disks, without a control plane')
    .option('--file <path>', 'the file to serve', (path) => void sources.push({ filePath: path }))
    .option('--null <size>', 'serve bytes that nobody keeps, instead: measures the rings alone', (text) => {
      sources.push({ filePath: `null ${text}`, nullBytes: sizeInBytes(text) });
    })
    .option('--socket <path>', 'where to listen', (path) => void sockets.push({ socketPath: path }))
    .option('--socket-fd <number>', 'an inherited socket that already listens, instead', (text) => {
      sockets.push({ socketFd: queueNumber(text, 0, 2 ** 20) });
    })
    .option('--size <size>', 'make the file, or grow it, to this size (bytes, or K, M, G, T)', sizeInBytes)
    .option('--read-only', 'the guest may not write')
    .option('--num-queues <number>', 'queues of each disk', (text) => queueNumber(text, 1, MAX_QUEUES), 1)
    .addOption(
      new Option('--cache <mode>', 'writeback: through the page cache; direct: past it (O_DIRECT)')
        .choices(['writeback', 'direct'])
        .default('writeback'),
    )
    .option('--serial <text>', `serial that the guest reads, at most ${SERIAL_BYTES} bytes`, (text) => {
      if (Buffer.byteLength(text) > SERIAL_BYTES)
        throw new InvalidArgumentError(`At most ${SERIAL_BYTES} bytes.`);
      serials.push(text);
    })
    .option('--control <socket>', "listen here for 'cairn resize', 'cairn limit' and 'cairn top'")
    .addOption(
      new Option('--reactors <number>', 'threads that serve the rings')
        .argParser((text) => queueNumber(text, 1, MAX_REACTORS))
        .default(defaultReactors(), 'one per core')
        .env('CAIRN_REACTORS'),
    )
    .addOption(
      new Option('--poll-micros <number>', 'look for requests so long, at most, before sleeping; 0 = never')
        .argParser((text) => queueNumber(text, 0, MAX_POLL_MICROS))
        .default(DEFAULT_POLL_MICROS)
        .env('CAIRN_POLL_MICROS'),
    )
    .addHelpText('after', exportHelp)
    .action((options: ExportOptions) => serve(specsOf(sources, sockets, serials, options), options));
  return withLimitOptions(command);
}

/** `cairn resize`: grow a disk that `cairn export --control` serves, while a guest runs. */
export function resizeCommand(): Command {
  return new Command('resize')
    .description("grow a disk that 'cairn export --control' serves, while a guest uses it")
    .argument('<size>', 'the new size (bytes, or K, M, G, T); never smaller than now', sizeInBytes)
    .requiredOption('--control <socket>', "the control socket of 'cairn export'")
    .option('--file <path>', 'which of the files, when several are served')
    .action(async (sizeBytes: number, options: { control: string; file?: string }) => {
      const file = options.file && { file: options.file };
      const grown = await askControl(options.control, { verb: 'resize', sizeBytes, ...file });
      process.stdout.write(`${grown.file} has ${grown.sizeBytes} bytes now\n`);
    });
}

const queueNumber = (text: string, least: number, most: number): number => {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
};

const specsOf = (
  sources: readonly Source[],
  sockets: readonly { socketPath?: string; socketFd?: number }[],
  serials: readonly string[],
  options: ExportOptions,
): ExportSpec[] => {
  if (sources.length !== sockets.length) {
    throw new CliError(
      `${sources.length} --file or --null but ${sockets.length} --socket or --socket-fd`,
      'give one socket for each file',
    );
  }
  if (sources.length === 0) throw new CliError('nothing to serve', 'give --file and --socket');
  if (serials.length > sources.length)
    throw new CliError('more --serial than --file', 'give at most one for each file');
  const limits = limitsOf(options);
  return sources.map((source, index) => ({
    id: `${index}`,
    ...source,
    ...sockets[index],
    readOnly: options.readOnly ?? false,
    numQueues: options.numQueues,
    cache: options.cache,
    serial: serials[index] ?? Buffer.from(basename(source.filePath)).subarray(0, SERIAL_BYTES).toString(),
    ...(isLimited(limits) ? { limits } : {}),
  }));
};

const serve = async (specs: readonly ExportSpec[], options: ExportOptions): Promise<void> => {
  const stopAsked = new Promise<void>((resolve) => {
    process.once('SIGTERM', () => resolve());
    process.once('SIGINT', () => resolve());
  });
  const reactor = await Reactors.start({
    pollMicros: options.pollMicros,
    reactors: options.reactors,
    onNotice: (notice) => process.stderr.write(`${notice}\n`),
  });
  let closeControl: (() => void) | undefined;
  try {
    for (const spec of specs) {
      try {
        if (spec.nullBytes === undefined) {
          if (options.size !== undefined) ensureVolumeFile(spec.filePath, options.size);
          // Held until the process ends; a reader harms nobody.
          if (!spec.readOnly) await lockVolumeFile(spec.filePath);
        }
        await reactor.addExport(spec);
      } catch (error) {
        throw new CliError(error instanceof Error ? error.message : String(error), undefined, {
          cause: error,
        });
      }
    }
    if (options.control !== undefined) closeControl = await openControl(options.control, reactor, specs);
    process.stdout.write('ready\n');
    const died = await Promise.race([stopAsked, reactor.failed]);
    if (died) throw died;
  } finally {
    closeControl?.();
    await reactor.stop({ drainTimeoutMs: DRAIN_MS });
  }
};
