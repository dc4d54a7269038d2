import { createHash, type Hash } from 'node:crypto';
import { CliError } from '../cli-error.js';
import type { ImageBlock } from './image-blocks.js';

// What changed between two snapshots, as a stream:
//
//   cairn-changes 1 SIZE BLOCK\n     of the later snapshot, and of a block, in bytes
//   index (8 bytes, little endian), the block's bytes; again for each, in order
//   2^64-1 (8 bytes), SHA-256 of all before these 32 bytes
//
// So a stream that was cut, or changed on its way, is never taken for a whole one.

const magic = 'cairn-changes 1';
const headerBytesMax = 80;
const indexBytes = 8;
const digestBytes = 32;
const lastIndex = 2n ** 64n - 1n;

/** The sizes that a stream of changes begins with. */
export interface ChangesHeader {
  sizeBytes: number;
  blockBytes: number;
}

/** Writes changes as a stream. */
export async function* changesStream(
  { sizeBytes, blockBytes }: ChangesHeader,
  blocks: AsyncIterable<ImageBlock>,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  const hashed = (bytes: Uint8Array): Uint8Array => {
    hash.update(bytes);
    return bytes;
  };
  yield hashed(Buffer.from(`${magic} ${sizeBytes} ${blockBytes}\n`));
  for await (const { index, data } of blocks) {
    yield hashed(indexOf(BigInt(index)));
    yield hashed(data);
  }
  yield hashed(indexOf(lastIndex));
  yield hash.digest();
}

/** Reads a stream of changes. Every failure is a CliError. */
export class ChangesReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private readonly hash: Hash = createHash('sha256');
  private rest: Buffer = Buffer.alloc(0);

  constructor(bytes: AsyncIterable<Buffer>) {
    this.chunks = bytes[Symbol.asyncIterator]();
  }

  /** The sizes; comes first. */
  async header(): Promise<ChangesHeader> {
    let line = '';
    while (!line.endsWith('\n') && line.length < headerBytesMax)
      line += (await this.take(1)).toString('latin1');
    const [, size, block] = /^cairn-changes 1 (\d{1,15}) (\d{1,9})\n$/.exec(line) ?? [];
    const header = { sizeBytes: Number(size), blockBytes: Number(block) };
    if (header.sizeBytes > 0 && header.blockBytes > 0) return header;
    throw new CliError(
      'these are no changes of a snapshot',
      'Make them with: cairn snapshot export --from snap-…',
    );
  }

  /** The blocks, in order; ends only when all of them have come as they were written. */
  async *blocks({ sizeBytes, blockBytes }: ChangesHeader): AsyncGenerator<ImageBlock> {
    for (;;) {
      const index = (await this.take(indexBytes)).readBigUInt64LE();
      if (index === lastIndex) break;
      const length = Math.min(blockBytes, sizeBytes - Number(index) * blockBytes);
      if (!(length > 0)) throw damaged();
      yield { index: Number(index), data: await this.take(length) };
    }
    const expected = this.hash.copy().digest();
    if (!expected.equals(await this.take(digestBytes))) throw damaged();
    if (this.rest.length > 0 || !(await this.chunks.next()).done) throw damaged();
  }

  private async take(length: number): Promise<Buffer> {
    let all = this.rest;
    if (all.length < length) {
      const parts = [all];
      for (let have = all.length; have < length;) {
        const next = await this.chunks.next();
        if (next.done === true) throw new CliError('the changes end too early', 'Export them again.');
        parts.push(next.value);
        have += next.value.length;
      }
      all = Buffer.concat(parts);
    }
    this.rest = all.subarray(length);
    const taken = all.subarray(0, length);
    this.hash.update(taken);
    return taken;
  }
}

const damaged = (): CliError => new CliError('the changes are not what was exported', 'Export them again.');

function indexOf(index: bigint): Buffer {
  const bytes = Buffer.alloc(indexBytes);
  bytes.writeBigUInt64LE(index);
  return bytes;
}
