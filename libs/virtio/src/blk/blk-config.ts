/** What the configuration space of a block device announces; sizes in bytes. */
export interface BlkGeometry {
  capacityBytes: number;
  blockSizeBytes: number;
  /** Greatest number of data segments in one request. */
  segMax: number;
  /** Greatest size of one segment. */
  sizeMaxBytes: number;
  numQueues: number;
  /** Unit below which the backing file would read before it writes, as a power of two of blocks. */
  physicalBlockExponent: number;
  /** Preferred I/O size, in blocks. */
  optimalIoBlocks: number;
  /** Of one DISCARD or WRITE_ZEROES request. */
  zeroing: { maxSegments: number; maxSectors: number; alignmentSectors: number };
}

const SPACE_BYTES = 256; // VHOST_USER_MAX_CONFIG_SIZE: front-ends may ask for all of it
const WRITEBACK_OFFSET = 32;
const SECTOR_BYTES = 512;

/** struct virtio_blk_config (virtio 1.2 §5.2.4), little-endian. The driver may write one byte of it: `writeback`. */
export class BlkConfigSpace {
  private readonly bytes = new Uint8Array(SPACE_BYTES);
  private readonly view = new DataView(this.bytes.buffer);

  constructor(geometry: BlkGeometry) {
    const { view } = this;
    this.setCapacity(geometry.capacityBytes);
    view.setUint32(8, geometry.sizeMaxBytes, true);
    view.setUint32(12, geometry.segMax, true);
    view.setUint32(20, geometry.blockSizeBytes, true);
    view.setUint8(24, geometry.physicalBlockExponent);
    view.setUint16(26, 1, true); // minimum I/O size, in blocks
    view.setUint32(28, geometry.optimalIoBlocks, true);
    view.setUint16(34, geometry.numQueues, true);
    const { maxSegments, maxSectors, alignmentSectors } = geometry.zeroing;
    view.setUint32(36, maxSectors, true); // max_discard_sectors
    view.setUint32(40, maxSegments, true); // max_discard_seg
    view.setUint32(44, alignmentSectors, true); // discard_sector_alignment
    view.setUint32(48, maxSectors, true); // max_write_zeroes_sectors
    view.setUint32(52, maxSegments, true); // max_write_zeroes_seg
    view.setUint8(56, 1); // write_zeroes_may_unmap
    this.writeback = true;
  }

  /** Is the write cache on? While it is off every write is durable before it completes. */
  get writeback(): boolean {
    return this.bytes[WRITEBACK_OFFSET] === 1;
  }

  set writeback(on: boolean) {
    this.bytes[WRITEBACK_OFFSET] = on ? 1 : 0;
  }

  setCapacity(capacityBytes: number): void {
    const sectors = capacityBytes / SECTOR_BYTES;
    this.view.setUint32(0, sectors % 2 ** 32, true);
    this.view.setUint32(4, Math.floor(sectors / 2 ** 32), true);
  }

  /** Copy of a part of the space; undefined when it reaches past the end. */
  read(offset: number, size: number): Uint8Array | undefined {
    if (offset + size > SPACE_BYTES) return undefined;
    return this.bytes.slice(offset, offset + size);
  }

  /** A driver's write; false when it is to anything but `writeback` or is neither 0 nor 1 (virtio 1.2 §5.2.5). */
  write(offset: number, data: Uint8Array): boolean {
    const value = data[0];
    if (offset !== WRITEBACK_OFFSET || data.length !== 1 || (value !== 0 && value !== 1)) return false;
    this.writeback = value === 1;
    return true;
  }
}
