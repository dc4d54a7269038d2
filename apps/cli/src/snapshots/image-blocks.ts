import { createReadStream } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { CliError } from '../cli-error.js';

/** A raw image, to be read in blocks. */
export interface Image {
  /** Undefined when only its end will tell. */
  sizeBytes: number | undefined;
  bytes: Readable;
}

/** A part of an image; the last is shorter than a block where the image ends in one. */
export interface ImageBlock {
  index: number;
  data: Uint8Array;
}

/** Opens a raw image, `-` for standard input. Throws CliError when there is none. */
export async function openImage(path: string): Promise<Image> {
  if (path === '-') return { sizeBytes: undefined, bytes: process.stdin };
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    throw new CliError(`${path} cannot be read: ${String(error)}`, undefined, { cause: error });
  }
  const stats = await file.stat();
  // A device has no size here, and a pipe none at all.
  const sizeBytes = stats.isFile() ? stats.size : undefined;
  return { sizeBytes, bytes: createReadStream(path, { fd: file, highWaterMark: 2 ** 20 }) };
}

/**
 * The blocks of an image of at most so many bytes, in order. What is missing at the end of a block is zeroes, as far as
 * the size goes. Throws CliError when there is more.
 */
export async function* blocksOf(
  bytes: AsyncIterable<Buffer>,
  { sizeBytes, blockBytes }: { sizeBytes: number; blockBytes: number },
): AsyncGenerator<ImageBlock> {
  const lengthOf = (index: number): number => Math.min(blockBytes, sizeBytes - index * blockBytes);
  let index = 0;
  let block = new Uint8Array(Math.max(0, lengthOf(0)));
  let filled = 0;
  for await (const chunk of bytes) {
    let part = chunk;
    while (part.length > 0) {
      if (block.length === 0) throw new CliError(`the image has more than ${sizeBytes} bytes`);
      const taken = Math.min(part.length, block.length - filled);
      block.set(part.subarray(0, taken), filled);
      part = part.subarray(taken);
      filled += taken;
      if (filled < block.length) continue;
      yield { index, data: block };
      index += 1;
      block = new Uint8Array(Math.max(0, lengthOf(index)));
      filled = 0;
    }
  }
  if (filled > 0) yield { index, data: block };
}

/** Is every byte zero? */
export const isZero = (data: Uint8Array): boolean => {
  const all = Buffer.from(data.buffer, data.byteOffset, data.length);
  return all.length === 0 || (all[0] === 0 && all.subarray(1).equals(all.subarray(0, -1)));
};
