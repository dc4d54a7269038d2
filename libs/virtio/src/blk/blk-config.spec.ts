import { describe, expect, it } from 'vitest';
import { BlkConfigSpace, type BlkGeometry } from './blk-config.js';

const geometry = (more: Partial<BlkGeometry> = {}): BlkGeometry => ({
  capacityBytes: 0x0102_0304_0506 * 512,
  blockSizeBytes: 4096,
  segMax: 126,
  sizeMaxBytes: 0x00a1_b2c3,
  numQueues: 0x0708,
  physicalBlockExponent: 3,
  optimalIoBlocks: 0x0d0e_0f10,
  zeroing: { maxSegments: 0x21, maxSectors: 0x0043_6587, alignmentSectors: 8 },
  ...more,
});
const hex = (bytes: Uint8Array | undefined) => bytes && Buffer.from(bytes).toString('hex');

describe('the configuration space of a block device', () => {
  it('lays its fields out as struct virtio_blk_config (virtio 1.2 §5.2.4)', () => {
    const config = new BlkConfigSpace(geometry());
    expect(hex(config.read(0, 36))).toBe(
      [
        '0605040302010000', // 0 capacity, in sectors
        'c3b2a100', // 8 size_max
        '7e000000', // 12 seg_max
        '00000000', // 16 geometry
        '00100000', // 20 blk_size
        '03', // 24 physical_block_exp
        '00', // 25 alignment_offset
        '0100', // 26 min_io_size
        '100f0e0d', // 28 opt_io_size
        '01', // 32 writeback
        '00', // 33 unused
        '0807', // 34 num_queues
      ].join(''),
    );
    expect(hex(config.read(36, 24))).toBe(
      [
        '87654300', // 36 max_discard_sectors
        '21000000', // 40 max_discard_seg
        '08000000', // 44 discard_sector_alignment
        '87654300', // 48 max_write_zeroes_sectors
        '21000000', // 52 max_write_zeroes_seg
        '01', // 56 write_zeroes_may_unmap
        '000000', // 57 unused
      ].join(''),
    );
  });

  it('counts a capacity in sectors of 512 bytes whatever the block size, past 2^32 of them', () => {
    const config = new BlkConfigSpace(geometry());
    config.setCapacity(64 * 2 ** 40);
    expect(hex(config.read(0, 8))).toBe('0000000020000000');
    config.setCapacity(512);
    expect(hex(config.read(0, 8))).toBe('0100000000000000');
  });

  it('gives any part up to 256 bytes, and nothing past that', () => {
    const config = new BlkConfigSpace(geometry());
    expect(config.read(0, 256)).toHaveLength(256);
    expect(config.read(256, 0)).toHaveLength(0);
    expect(hex(config.read(34, 2))).toBe('0807');
    for (const [offset, size] of [
      [0, 257],
      [256, 1],
      [255, 2],
      [0xffffffff, 1],
      [0xffffffff, 0xffffffff],
    ] as const)
      expect(config.read(offset, size)).toBeUndefined();
  });

  it('gives a copy: what a reader does to it changes nothing', () => {
    const config = new BlkConfigSpace(geometry());
    config.read(0, 256)!.fill(0xff);
    expect(hex(config.read(20, 4))).toBe('00100000');
  });

  it('lets the driver turn the write cache off and on, with 0 and 1 alone (virtio 1.2 §5.2.5)', () => {
    const config = new BlkConfigSpace(geometry());
    expect(config.writeback).toBe(true);
    expect(config.write(32, Uint8Array.of(0))).toBe(true);
    expect(config.writeback).toBe(false);
    expect(hex(config.read(32, 1))).toBe('00');
    expect(config.write(32, Uint8Array.of(2))).toBe(false);
    expect(config.writeback).toBe(false);
    expect(config.write(32, Uint8Array.of(1))).toBe(true);
    expect(config.writeback).toBe(true);
  });

  it('lets the driver write nothing else', () => {
    const config = new BlkConfigSpace(geometry());
    const before = hex(config.read(0, 256));
    for (let offset = 0; offset < 260; offset += 1) {
      if (offset !== 32) expect(config.write(offset, Uint8Array.of(0))).toBe(false);
    }
    expect(config.write(32, Uint8Array.of(0, 0))).toBe(false);
    expect(config.write(32, new Uint8Array(0))).toBe(false);
    expect(config.write(31, Uint8Array.of(0, 0))).toBe(false);
    expect(hex(config.read(0, 256))).toBe(before);
  });
});
