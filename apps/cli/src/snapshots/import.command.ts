import { createHash } from 'node:crypto';
import { Command } from 'commander';
import { digestOf, BlockUpload } from '../api/block-transfer.js';
import type { ApiClient, SnapshotWords } from '../api/api-client.js';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import { sizeInBytes, wholeNumber } from '../whole-number.js';
import { changesSource, imageSource, type BlockSource } from './block-source.js';
import { openImage } from './image-blocks.js';
import { inParallel } from './in-parallel.js';
import { Progress } from './progress.js';
import { printSnapshot, withWordOptions, wordsOf, type WordOptions } from './snapshot-words.js';

interface ImportOptions extends ApiOptions, WordOptions {
  size?: number;
  parent?: string;
  changes?: boolean;
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
    .option('--changes', 'the file has what changed since the parent, as export --from writes it')
    .option('--timeout <minutes>', 'it is cancelled when nothing was sent for so long', wholeNumber)
    .option('--parallel <count>', 'blocks that are sent at once', wholeNumber, 8)
    .action(async (path: string, options: ImportOptions) => {
      const api = apiOf(options);
      const image = await openImage(path);
      try {
        const source = options.changes
          ? await changesSource(image, options)
          : await imageSource(api, image, options);
        printSnapshot(await api.getSnapshot(await importBlocks(api, source, options)));
      } finally {
        image.bytes.destroy();
      }
    });
}

/** Makes a snapshot of blocks and tells its id. Throws CliError, and leaves no snapshot then. */
async function importBlocks(
  api: ApiClient,
  source: BlockSource,
  options: Omit<ImportOptions, keyof ApiOptions>,
): Promise<string> {
  const { sizeBytes } = source;
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
    await inParallel(source.blocks(blockBytes), options.parallel, async (block) => {
      const { index, data } = block;
      const isNeeded = source.isNeeded(block);
      if (isNeeded) {
        // In the order of the indices: nothing was waited for yet.
        const digest = digestOf(data);
        checksum.update(digest);
        changedBlocks += 1;
        await upload.put(index, data, digest, progress.percent);
      }
      progress.add(data.length, isNeeded);
    });
    progress.end();
    const completion = await api.completeSnapshot(id, { changedBlocks, checksum: checksum.digest('base64') });
    await api.finish(completion.operation, { timeoutMs: completionMs });
    return id;
  } catch (error) {
    await api
      .deleteSnapshot(id)
      .catch(() => process.stderr.write(`cairn: ${id} is left, and is cancelled by itself\n`));
    throw error;
  }
}
