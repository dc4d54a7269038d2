import { describe, expect, it } from 'vitest';
import { BLK_STATUS, BLK_TYPE } from './blk-request.js';
import { parseBlkSegments, type BlkSegmentLimits } from './blk-segments.js';

const MIB = 2 ** 20;
const UNMAP = 1;

const limits = (overrides: Partial<BlkSegmentLimits> = {}): BlkSegmentLimits => ({
  maxSegments: 4,
  maxSectors: 1024,
  capacityBytes: MIB,
  blockSizeBytes: 512,
  ...overrides,
});

/** Little-endian structures: [sector, sectors, flags] each. */
const payload = (...segments: [sector: number | bigint, sectors: number, flags?: number][]): Uint8Array => {
  const bytes = new Uint8Array(16 * segments.length);
  const view = new DataView(bytes.buffer);
  segments.forEach(([sector, sectors, flags = 0], index) => {
    view.setBigUint64(16 * index, BigInt(sector), true);
    view.setUint32(16 * index + 8, sectors, true);
    view.setUint32(16 * index + 12, flags, true);
  });
  return bytes;
};

describe('blk segments (virtio 1.2 §5.2.6)', () => {
  it('reads the structure as it lies on the wire', () => {
    const bytes = Uint8Array.from(Buffer.from('0102000000000000100000000100000000', 'hex').subarray(0, 16));
    expect(parseBlkSegments(BLK_TYPE.WRITE_ZEROES, bytes, limits())).toEqual({
      status: BLK_STATUS.OK,
      segments: [{ offsetBytes: 0x201 * 512, lengthBytes: 16 * 512, unmap: true }],
    });
  });

  it('reads a payload that lies inside a larger buffer', () => {
    const inside = new Uint8Array(64);
    inside.set(payload([3, 2]), 7);
    const { segments } = parseBlkSegments(BLK_TYPE.DISCARD, inside.subarray(7, 23), limits());
    expect(segments).toEqual([{ offsetBytes: 1536, lengthBytes: 1024, unmap: false }]);
  });

  it('gives several segments in order and leaves out those of no sectors', () => {
    const bytes = payload([8, 1], [2047, 0], [0, 8]);
    expect(parseBlkSegments(BLK_TYPE.DISCARD, bytes, limits()).segments).toEqual([
      { offsetBytes: 4096, lengthBytes: 512, unmap: false },
      { offsetBytes: 0, lengthBytes: 4096, unmap: false },
    ]);
  });

  it('accepts a range that ends at the capacity, and the largest allowed number of segments and sectors', () => {
    const bytes = payload([1024, 1024], [1024, 1024], [1024, 1024], [1024, 1024]);
    expect(parseBlkSegments(BLK_TYPE.SECURE_ERASE, bytes, limits()).segments).toHaveLength(4);
  });

  it('accepts ranges past 2^32 sectors', () => {
    const huge = limits({ capacityBytes: 64 * 2 ** 40 });
    expect(parseBlkSegments(BLK_TYPE.DISCARD, payload([2 ** 36, 8]), huge).segments).toEqual([
      { offsetBytes: 2 ** 45, lengthBytes: 4096, unmap: false },
    ]);
  });

  it.each([
    ['an empty payload', new Uint8Array(0), limits()],
    ['a payload shorter than a structure', payload([0, 1]).subarray(0, 15), limits()],
    ['a payload longer than a structure', new Uint8Array(17), limits()],
    ['more segments than announced', payload([0, 1], [1, 1], [2, 1]), limits({ maxSegments: 2 })],
    ['more sectors than announced', payload([0, 1025]), limits()],
    ['a range past the capacity', payload([2047, 2]), limits()],
    ['a range that starts past the capacity', payload([2049, 0]), limits()],
    ['a sector whose byte offset overflows 64 bits', payload([2n ** 63n, 1]), limits()],
    ['a sector whose byte offset wraps to a legal one', payload([2n ** 55n + 8n, 1]), limits()],
    ['the last sector of all', payload([2n ** 64n - 1n, 1]), limits()],
    ['a start off the block size', payload([1, 8]), limits({ blockSizeBytes: 4096 })],
    ['a length off the block size', payload([8, 7]), limits({ blockSizeBytes: 4096 })],
    ['a good segment before a bad one', payload([0, 8], [2047, 2]), limits()],
  ])('fails %s with IOERR', (_, bytes, bounds) => {
    for (const type of [BLK_TYPE.DISCARD, BLK_TYPE.WRITE_ZEROES, BLK_TYPE.SECURE_ERASE]) {
      expect(parseBlkSegments(type, bytes, bounds)).toEqual({ status: BLK_STATUS.IOERR, segments: [] });
    }
  });

  it.each([
    ['unmap on a discard', BLK_TYPE.DISCARD, UNMAP],
    ['unmap on a secure erase', BLK_TYPE.SECURE_ERASE, UNMAP],
    ['a reserved flag on a discard', BLK_TYPE.DISCARD, 2],
    ['a reserved flag on a write zeroes', BLK_TYPE.WRITE_ZEROES, UNMAP | 2],
    ['the highest flag on a write zeroes', BLK_TYPE.WRITE_ZEROES, 0x8000_0000],
  ])('refuses %s with UNSUPP, even beside other faults (§5.2.6.2)', (_, type, flags) => {
    const refused = { status: BLK_STATUS.UNSUPP, segments: [] };
    expect(parseBlkSegments(type, payload([0, 8], [8, 8, flags]), limits())).toEqual(refused);
    expect(parseBlkSegments(type, payload([2047, 2], [8, 8, flags]), limits())).toEqual(refused);
  });
});
