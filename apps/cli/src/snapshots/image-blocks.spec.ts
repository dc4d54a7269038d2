import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { CliError } from '../cli-error.js';
import { blocksOf, isZero } from './image-blocks.js';

const all = async (chunks: number[][], sizeBytes: number) => {
  const blocks: [number, number[]][] = [];
  const bytes = Readable.from(chunks.map((chunk) => Buffer.from(chunk)));
  for await (const { index, data } of blocksOf(bytes, { sizeBytes, blockBytes: 4 }))
    blocks.push([index, [...data]]);
  return blocks;
};

describe('blocksOf', () => {
  it.each([
    [
      'chunks of every length',
      [[1], [2, 3, 4, 5, 6], [7, 8]],
      8,
      [
        [0, [1, 2, 3, 4]],
        [1, [5, 6, 7, 8]],
      ],
    ],
    [
      'a last block that is shorter',
      [[1, 2, 3, 4, 5, 6]],
      6,
      [
        [0, [1, 2, 3, 4]],
        [1, [5, 6]],
      ],
    ],
    [
      'an image that ends early',
      [[1, 2, 3, 4, 5]],
      12,
      [
        [0, [1, 2, 3, 4]],
        [1, [5, 0, 0, 0]],
      ],
    ],
    ['nothing', [], 8, []],
  ])('cuts %s', async (_, chunks, sizeBytes, expected) => {
    expect(await all(chunks, sizeBytes)).toEqual(expected);
  });

  it.each([
    [[[1, 2, 3, 4, 5]], 4],
    [[[1, 2, 3, 4, 5, 6, 7]], 6],
  ])('refuses %j as %i bytes', async (chunks, size) => {
    await expect(all(chunks, size)).rejects.toThrow(CliError);
  });
});

describe('isZero', () => {
  it.each([
    [[], true],
    [[0], true],
    [[1], false],
    [[0, 0, 0], true],
    [[0, 0, 1], false],
    [[0, 1, 0], false],
    [[1, 1, 1], false],
  ])('%j: %s', (bytes, expected) => expect(isZero(Uint8Array.from(bytes))).toBe(expected));
});
