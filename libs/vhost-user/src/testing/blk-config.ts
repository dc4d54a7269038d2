/** The configuration space of a block device (virtio 1.2 §5.2.4), read. */
export interface BlkConfig {
  capacitySectors: number;
  sizeMaxBytes: number;
  segMax: number;
  blkSizeBytes: number;
  physicalBlockExp: number;
  alignmentOffset: number;
  minIoBlocks: number;
  optIoBlocks: number;
  /** 1 = write-back, 0 = write-through. */
  writeback: number;
  numQueues: number;
  maxDiscardSectors: number;
  maxDiscardSegments: number;
  maxWriteZeroesSectors: number;
  maxWriteZeroesSegments: number;
}

/** Length of the space up to and with WRITE_ZEROES. */
export const BLK_CONFIG_BYTES = 60;

/** Offset of the `writeback` byte, the only one a driver may write. */
export const WRITEBACK_OFFSET = 32;

/** Reads a configuration space. */
export const parseBlkConfig = (bytes: Buffer): BlkConfig => ({
  capacitySectors: Number(bytes.readBigUInt64LE(0)),
  sizeMaxBytes: bytes.readUInt32LE(8),
  segMax: bytes.readUInt32LE(12),
  blkSizeBytes: bytes.readUInt32LE(20),
  physicalBlockExp: bytes.readUInt8(24),
  alignmentOffset: bytes.readUInt8(25),
  minIoBlocks: bytes.readUInt16LE(26),
  optIoBlocks: bytes.readUInt32LE(28),
  writeback: bytes.readUInt8(WRITEBACK_OFFSET),
  numQueues: bytes.readUInt16LE(34),
  maxDiscardSectors: bytes.readUInt32LE(36),
  maxDiscardSegments: bytes.readUInt32LE(40),
  maxWriteZeroesSectors: bytes.readUInt32LE(48),
  maxWriteZeroesSegments: bytes.readUInt32LE(52),
});
