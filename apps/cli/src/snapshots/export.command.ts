import { open, rm, type FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Command } from 'commander';
import type { ApiClient } from '../api/api-client.js';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import { readBlock } from '../api/block-transfer.js';
import { CliError } from '../cli-error.js';
import { wholeNumber } from '../whole-number.js';
import { aheadOf, inParallel } from './in-parallel.js';
import { Progress } from './progress.js';

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
    .option('--parallel <count>', 'blocks that are read at once', wholeNumber, 8)
    .action(async (id: string, path: string, { parallel, ...options }: ApiOptions & { parallel: number }) => {
      const api = apiOf(options);
      if (path === '-') {
        const bytes = Readable.from(imageOf(api, id, parallel), { objectMode: false });
        await pipeline(bytes, process.stdout, { end: false });
      } else {
        await exportToFile(api, id, { path, parallel });
        process.stdout.write(`${id} is in ${path}\n`);
      }
    });
}

/** Writes a snapshot into a new, sparse file. Throws CliError, and leaves no file then. */
export async function exportToFile(
  api: ApiClient,
  id: string,
  { path, parallel }: { path: string; parallel: number },
): Promise<void> {
  const { sizeBytes } = await api.getSnapshot(id);
  let file: FileHandle;
  try {
    file = await open(path, 'wx');
  } catch (error) {
    throw new CliError(`${path} cannot be made: ${String(error)}`, undefined, { cause: error });
  }
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
export async function* imageOf(api: ApiClient, id: string, parallel: number): AsyncGenerator<Uint8Array> {
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
