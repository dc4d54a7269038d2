import { VOLUME_SIZE_MIN, VOLUME_SIZE_MULTIPLE } from '@cairn/domain';
import type { ApiClient } from '../api/api-client.js';
import { CliError } from '../cli-error.js';
import { ChangesReader } from './changes-stream.js';
import { blocksOf, isZero, type Image, type ImageBlock } from './image-blocks.js';

/** What a snapshot is made of. */
export interface BlockSource {
  sizeBytes: number;
  /** Blocks of so many bytes, in order; throws CliError at the end when it was not all. */
  blocks(blockBytes: number): AsyncIterable<ImageBlock>;
  /** Must it be put, or is it there by itself? */
  isNeeded(block: ImageBlock): boolean;
}

/** The blocks of a raw image, of which zeroes are there by themselves, but for where a parent has something. */
export async function imageSource(
  api: ApiClient,
  image: Image,
  options: { size?: number; parent?: string },
): Promise<BlockSource> {
  const sizeBytes = options.size ?? roundUp(image.sizeBytes);
  if (image.sizeBytes !== undefined && image.sizeBytes > sizeBytes) {
    throw new CliError(`the image has ${image.sizeBytes} bytes, more than ${sizeBytes}`);
  }
  const below = new Set<number>();
  if (options.parent !== undefined)
    for await (const { index } of api.listBlocks(options.parent)) below.add(index);
  return {
    sizeBytes,
    async *blocks(blockBytes) {
      let readBytes = 0;
      const counted = async function* (): AsyncGenerator<Buffer> {
        for await (const chunk of image.bytes) {
          const part: Buffer = chunk;
          readBytes += part.length;
          yield part;
        }
      };
      yield* blocksOf(counted(), { sizeBytes, blockBytes });
      if (image.sizeBytes !== undefined || roundUp(readBytes) >= sizeBytes) return;
      throw new CliError(
        `the image ended after ${readBytes} of ${sizeBytes} bytes`,
        'If that is all of it, give its size with --size.',
      );
    },
    isNeeded: ({ index, data }) => !isZero(data) || below.has(index),
  };
}

/** The blocks of a stream of changes, over the parent that has the bytes from which they were made. */
export async function changesSource(
  image: Image,
  { size, parent }: { size?: number; parent?: string },
): Promise<BlockSource> {
  if (parent === undefined) {
    throw new CliError('changes need a parent', 'Give it with --parent: what they were exported from.');
  }
  const reader = new ChangesReader(image.bytes);
  const header = await reader.header();
  if (size !== undefined && size !== header.sizeBytes) {
    throw new CliError(`the changes are of ${header.sizeBytes} bytes, not ${size}`);
  }
  return {
    sizeBytes: header.sizeBytes,
    blocks(blockBytes) {
      if (blockBytes === header.blockBytes) return reader.blocks(header);
      throw new CliError(`the changes have blocks of ${header.blockBytes} bytes, not ${blockBytes}`);
    },
    isNeeded: () => true,
  };
}

/** The least size of a snapshot that holds so many bytes. */
function roundUp(bytes: number | undefined): number {
  if (bytes === undefined) {
    throw new CliError('the size of the image is not known before its end', 'Give it with --size.');
  }
  return Math.max(VOLUME_SIZE_MIN, Math.ceil(bytes / VOLUME_SIZE_MULTIPLE) * VOLUME_SIZE_MULTIPLE);
}
