import { createHash } from 'node:crypto';
import { VOLUME_SIZE_MIN, VOLUME_SIZE_MULTIPLE } from '@cairn/domain';
import { Command } from 'commander';
import { digestOf, BlockUpload } from '../api/block-transfer.js';
import type { ApiClient, SnapshotWords } from '../api/api-client.js';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import { CliError } from '../cli-error.js';
import { sizeInBytes, wholeNumber } from '../whole-number.js';
import { blocksOf, isZero, openImage, type Image } from './image-blocks.js';
import { inParallel } from './in-parallel.js';
import { Progress } from './progress.js';
import { printSnapshot, withWordOptions, wordsOf, type WordOptions } from './snapshot-words.js';

interface ImportOptions extends ApiOptions, WordOptions {
  size?: number;
  parent?: string;
  timeout?: number;
  parallel: number;
}

/** All that was put is read once more by the node. */
const completionMs = 4 * 3600_000;

/** `cairn snapshot import FILE|-`. */
export function importCommand(): Command {
  return withWordOptions(
    withApiOptions(
      new Command('import').description(
        'make a snapshot of a raw image, straight into a node; blocks of zeroes are not sent',
      ),
    ),
  )
    .argument('<file>', 'a raw image, or - for standard input')
    .option(
      '--size <size>',
      'of the snapshot: bytes, or a number with K, M, G or T; without it, of the file; what a file lacks is zeroes',
      sizeInBytes,
    )
    .option('--parent <snapshot>', 'a snapshot that it follows: only what changed takes space')
    .option('--timeout <minutes>', 'it is cancelled when nothing was sent for so long', wholeNumber)
    .option('--parallel <count>', 'blocks that are sent at once', wholeNumber, 8)
    .action(async (path: string, options: ImportOptions) => {
      const api = apiOf(options);
      const image = await openImage(path);
      printSnapshot(await api.getSnapshot(await importImage(api, image, options)));
    });
}

/** Makes a snapshot of an image and tells its id. Throws CliError, and leaves no snapshot then. */
export async function importImage(
  api: ApiClient,
  image: Image,
  options: Omit<ImportOptions, keyof ApiOptions>,
): Promise<string> {
  const sizeBytes = options.size ?? roundUp(image.sizeBytes);
  if (image.sizeBytes !== undefined && image.sizeBytes > sizeBytes) {
    throw new CliError(`the image has ${image.sizeBytes} bytes, more than ${sizeBytes}`);
  }
  const below = new Set<number>();
  if (options.parent !== undefined)
    for await (const { index } of api.listBlocks(options.parent)) below.add(index);
  const words: SnapshotWords = wordsOf(options);
  const { operation, snapshot } = await api.startSnapshot({
    sizeBytes,
    ...words,
    ...(options.parent !== undefined && { parentSnapshotId: options.parent }),
    ...(options.timeout !== undefined && { timeoutMinutes: options.timeout }),
  });
  const { id } = snapshot;
  try {
    await api.finish(operation);
    const { blockBytes } = await api.getUpload(id);
    const upload = new BlockUpload(api, id);
    const progress = new Progress(`import ${id}`, sizeBytes);
    const checksum = createHash('sha256');
    let changedBlocks = 0;
    let readBytes = 0;
    image.bytes.on('data', (chunk: Buffer) => (readBytes += chunk.length)).pause();
    await inParallel(
      blocksOf(image.bytes, { sizeBytes, blockBytes }),
      options.parallel,
      async ({ index, data }) => {
        // A block of zeroes hides what the parent has.
        const isSent = !isZero(data) || below.has(index);
        if (isSent) {
          // In the order of the indices: nothing was waited for yet.
          const digest = digestOf(data);
          checksum.update(digest);
          changedBlocks += 1;
          await upload.put(index, data, digest, progress.percent);
        }
        progress.add(data.length, isSent);
      },
    );
    if (image.sizeBytes === undefined && roundUp(readBytes) < sizeBytes) {
      throw new CliError(
        `the image ended after ${readBytes} of ${sizeBytes} bytes`,
        'If that is all of it, give its size with --size.',
      );
    }
    progress.end();
    const completion = await api.completeSnapshot(id, { changedBlocks, checksum: checksum.digest('base64') });
    await api.finish(completion.operation, { timeoutMs: completionMs });
    return id;
  } catch (error) {
    await api
      .deleteSnapshot(id)
      .catch(() => process.stderr.write(`cairn: ${id} is left, and is cancelled by itself\n`));
    throw error;
  } finally {
    image.bytes.destroy();
  }
}

/** The least size of a snapshot that holds so many bytes. */
function roundUp(bytes: number | undefined): number {
  if (bytes === undefined) {
    throw new CliError('the size of the image is not known before its end', 'Give it with --size.');
  }
  return Math.max(VOLUME_SIZE_MIN, Math.ceil(bytes / VOLUME_SIZE_MULTIPLE) * VOLUME_SIZE_MULTIPLE);
}
