import { describe, expect, it } from 'vitest';
import { CliError } from '../cli-error.js';
import { ChangesReader, changesStream } from './changes-stream.js';

const header = { sizeBytes: 10, blockBytes: 4 };
const blocks = [
  { index: 0, data: Buffer.from([1, 2, 3, 4]) },
  { index: 2, data: Buffer.from([5, 6]) },
];

async function* each<T>(items: readonly T[]) {
  yield* items;
}
const written = async (what = blocks): Promise<Buffer> => {
  const parts: Uint8Array[] = [];
  for await (const part of changesStream(header, each(what))) parts.push(part);
  return Buffer.concat(parts);
};
const read = async (bytes: Buffer, chunkBytes = 3) => {
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += chunkBytes) chunks.push(bytes.subarray(at, at + chunkBytes));
  const reader = new ChangesReader(each(chunks));
  const got: [number, number[]][] = [];
  const head = await reader.header();
  for await (const { index, data } of reader.blocks(head)) got.push([index, [...data]]);
  return { head, got };
};

describe('a stream of changes', () => {
  it.each([1, 3, 1000])('is read as it was written, in chunks of %i bytes', async (chunkBytes) => {
    const got = [
      [0, [1, 2, 3, 4]],
      [2, [5, 6]],
    ];
    expect(await read(await written(), chunkBytes)).toEqual({ head: header, got });
  });

  it('may have no blocks', async () => {
    expect(await read(await written([]))).toEqual({ head: header, got: [] });
  });

  it('is not taken when it is cut anywhere, when a byte differs, or when there is more', async () => {
    const whole = await written();
    for (let length = 0; length < whole.length; length += 1)
      await expect(read(whole.subarray(0, length)), `cut at ${length}`).rejects.toThrow(CliError);
    for (let at = 0; at < whole.length; at += 1) {
      const other = Buffer.from(whole);
      other[at]! ^= 1;
      await expect(read(other), `at ${at}`).rejects.toThrow(CliError);
    }
    await expect(read(Buffer.concat([whole, Buffer.from([0])]))).rejects.toThrow(CliError);
  });
});
