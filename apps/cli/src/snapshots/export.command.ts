import { open, rm, type FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { SNAPSHOT_BLOCK_BYTES } from '@cairn/domain';
import { Command } from 'commander';
import type { ApiClient } from '../api/api-client.js';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import { readBlock } from '../api/block-transfer.js';
import { CliError } from '../cli-error.js';
import { wholeNumber } from '../whole-number.js';
import { changesStream } from './changes-stream.js';
import { aheadOf, inParallel } from './in-parallel.js';
import { Progress } from './progress.js';

interface ExportOptions extends ApiOptions {
  parallel: number;
  from?: string;
}

/** Zeroes that are written at once. */
const zeroesBytes = 2 ** 20;

/** `cairn snapshot export SNAPSHOT FILE|-`. */
export function exportSnapshotCommand(): Command {
  return withApiOptions(
    new Command('export').description(
      'write a snapshot as a raw image, sparse in a file; every block is checked',
    ),
  )
    .argument('<snapshot>', 'snap-…')
    .argument('<file>', 'a file that is not there yet, or - for standard output')
    .option('--from <snapshot>', 'only what changed since this earlier one of its line, for import --changes')
    .option('--parallel <count>', 'blocks that are read at once', wholeNumber, 8)
    .action(async (id: string, path: string, { parallel, from, ...options }: ExportOptions) => {
      const api = apiOf(options);
      if (path !== '-' && from === undefined) {
        await exportToFile(api, id, { path, parallel });
      } else {
        const bytes =
          from === undefined ? imageOf(api, id, parallel) : changesBetween(api, { from, to: id, parallel });
        await writeStream(bytes, path);
      }
      if (path !== '-') process.stdout.write(`${id} is in ${path}\n`);
    });
}

/** Writes bytes into a new file, or to standard output. Throws CliError, and leaves no file then. */
async function writeStream(bytes: AsyncIterable<Uint8Array>, path: string): Promise<void> {
  const readable = Readable.from(bytes, { objectMode: false });
  if (path === '-') return pipeline(readable, process.stdout, { end: false });
  const file = await openNew(path);
  try {
    // Flushed to the disk when it closes.
    await pipeline(readable, file.createWriteStream({ flush: true }));
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}

async function openNew(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx');
  } catch (error) {
    throw new CliError(`${path} cannot be made: ${String(error)}`, undefined, { cause: error });
  }
}

/** Writes a snapshot into a new, sparse file. Throws CliError, and leaves no file then. */
async function exportToFile(
  api: ApiClient,
  id: string,
  { path, parallel }: { path: string; parallel: number },
): Promise<void> {
  const { sizeBytes } = await api.getSnapshot(id);
  const file = await openNew(path);
  try {
    await file.truncate(sizeBytes);
    const progress = new Progress(`export ${id}`, sizeBytes);
    await inParallel(api.listBlocks(id), parallel, async (block) => {
      const data = await readBlock(api, id, block);
      await file.write(data, 0, data.length, block.index * block.blockBytes);
      progress.add(data.length, true);
    });
    await file.sync();
    progress.end();
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

/** The bytes of a snapshot from first to last. */
async function* imageOf(api: ApiClient, id: string, parallel: number): AsyncGenerator<Uint8Array> {
  const { sizeBytes } = await api.getSnapshot(id);
  const progress = new Progress(`export ${id}`, sizeBytes);
  const zeroes = new Uint8Array(zeroesBytes);
  let at = 0;
  const zeroesTo = function* (end: number) {
    for (; at < end; at += zeroes.length) {
      const part = zeroes.subarray(0, end - at);
      progress.add(part.length, false);
      yield part;
    }
    at = end;
  };
  const read = aheadOf(api.listBlocks(id), parallel, async (block) => ({
    offset: block.index * block.blockBytes,
    data: await readBlock(api, id, block),
  }));
  for await (const { offset, data } of read) {
    yield* zeroesTo(offset);
    yield data;
    progress.add(data.length, true);
    at = offset + data.length;
  }
  yield* zeroesTo(sizeBytes);
  progress.end();
}

/** What changed between two snapshots, as a stream for another Cairn. */
async function* changesBetween(
  api: ApiClient,
  { from, to, parallel }: { from: string; to: string; parallel: number },
): AsyncGenerator<Uint8Array> {
  const { sizeBytes } = await api.getSnapshot(to);
  const progress = new Progress(`export ${to}`, sizeBytes);
  const blocks = aheadOf(api.listBlocks(to, from), parallel, async (block) => {
    const data = await readBlock(api, to, block);
    progress.add(data.length, true);
    return { index: block.index, data };
  });
  yield* changesStream({ sizeBytes, blockBytes: SNAPSHOT_BLOCK_BYTES }, blocks);
  progress.end();
}
