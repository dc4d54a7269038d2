import { BLK_STATUS, BLK_TYPE, SECTOR_BYTES } from './blk-request.js';

const SEGMENT_BYTES = 16;
const FLAG_UNMAP = 1;
const SECTOR_HIGH_LIMIT = 2 ** 12; // sectors whose byte offset a number holds exactly: below 2^44
const U32 = 2 ** 32;

/** A range that a discard, write-zeroes or secure-erase request is about. */
export interface BlkSegment {
  offsetBytes: number;
  lengthBytes: number;
  /** Write zeroes only: the range may be given back to the file system, as by a discard. */
  unmap: boolean;
}

/** What the device announced for the request's type (virtio 1.2 §5.2.4), and the disk itself. */
export interface BlkSegmentLimits {
  /** max_discard_seg and its like. */
  maxSegments: number;
  /** max_discard_sectors and its like: of each segment, in sectors of 512 bytes. */
  maxSectors: number;
  capacityBytes: number;
  /** Ranges must start and end at multiples of it: the logical block size. */
  blockSizeBytes: number;
}

/** `segments` is empty unless `status` is OK. */
export interface BlkSegments {
  status: number;
  segments: BlkSegment[];
}

/**
 * Takes the payload of a request of `type` apart: an array of struct virtio_blk_discard_write_zeroes.
 *
 * All or nothing: one bad segment fails the request before any range is touched. UNSUPP when a segment has an unknown
 * flag, or `unmap` where it has no meaning (virtio 1.2 §5.2.6.2), which counts before IOERR for anything else.
 * Segments of no sectors are legal and left out.
 */
export const parseBlkSegments = (
  type: number,
  payload: Uint8Array,
  limits: BlkSegmentLimits,
): BlkSegments => {
  // virtio 1.2 §5.2.6.1: the payload is a multiple of the structure.
  if (payload.length === 0 || payload.length % SEGMENT_BYTES !== 0) return failed(BLK_STATUS.IOERR);
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const knownFlags = type === BLK_TYPE.WRITE_ZEROES ? FLAG_UNMAP : 0;
  for (let at = 0; at < payload.length; at += SEGMENT_BYTES) {
    if ((view.getUint32(at + 12, true) & ~knownFlags) !== 0) return failed(BLK_STATUS.UNSUPP);
  }
  if (payload.length / SEGMENT_BYTES > limits.maxSegments) return failed(BLK_STATUS.IOERR);

  const segments: BlkSegment[] = [];
  for (let at = 0; at < payload.length; at += SEGMENT_BYTES) {
    const sectorHigh = view.getUint32(at + 4, true);
    const sectors = view.getUint32(at + 8, true);
    if (sectorHigh >= SECTOR_HIGH_LIMIT || sectors > limits.maxSectors) return failed(BLK_STATUS.IOERR);
    const offsetBytes = (sectorHigh * U32 + view.getUint32(at, true)) * SECTOR_BYTES;
    const lengthBytes = sectors * SECTOR_BYTES;
    const aligned = offsetBytes % limits.blockSizeBytes === 0 && lengthBytes % limits.blockSizeBytes === 0;
    if (!aligned || offsetBytes + lengthBytes > limits.capacityBytes) return failed(BLK_STATUS.IOERR);
    // Trusted from here: the range lies on the disk.
    const unmap = (view.getUint32(at + 12, true) & FLAG_UNMAP) !== 0;
    if (sectors > 0) segments.push({ offsetBytes, lengthBytes, unmap });
  }
  return { status: BLK_STATUS.OK, segments };
};

const failed = (status: number): BlkSegments => ({ status, segments: [] });
