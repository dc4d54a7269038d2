import { check, IO_URING, native } from '@cairn/native';
import { BLK_STATUS, type BlkSegment, parseBlkSegments, SECTOR_BYTES } from '@cairn/virtio';
import type { BlkRing } from './blk-ring.js';
import { nameIndex } from './failure-names.js';
import { SLOT } from './request-slots.js';
import type { ShardPort } from './shard-host.js';

const SEGMENT_BYTES = 16; // struct virtio_blk_discard_write_zeroes
const U32 = 2 ** 32;
const EOPNOTSUPP = 95;

/** Ranges of one DISCARD or WRITE_ZEROES request, and sectors of one range, at most; announced to the driver. */
export const ZERO_LIMITS = { maxSegments: 32, maxSectors: 2 ** 22 } as const;

/** Ways to make a range read as zeroes; fallocate's modes, or plain writes for file systems that have neither. */
const PUNCH_HOLE = 3; // with KEEP_SIZE
const ZERO_RANGE = 0x11; // with KEEP_SIZE
const WRITE = 0;
const PUNCH_FIRST = [PUNCH_HOLE, ZERO_RANGE, WRITE] as const;
const RANGE_FIRST = [ZERO_RANGE, PUNCH_HOLE, WRITE] as const;
const DISCARD_ONLY = [PUNCH_HOLE] as const;

const ZEROES_BYTES = 1024 * 1024;
let zeroes: number | undefined;

/** Address of memory that holds zeroes and is never written; one for each thread, made when it is needed first. */
const zeroesAddress = (): number => (zeroes ??= check('mmap', native.mapShared(-1, 0, ZEROES_BYTES)));

interface Work {
  ranges: BlkSegment[];
  discard: boolean;
  /** Which way is being tried for the first range; a way that the file system lacks is not tried again. */
  way: number;
}

/** Discard and write-zeroes requests of one shard, range by range (virtio 1.2 §5.2.6). */
export class Zeroing {
  private readonly work = new Map<number, Work>();

  constructor(private readonly shard: ShardPort) {}

  /** The ranges of the request in `ring.request`; undefined when they were wrong, and the request is completed. */
  parse(ring: BlkRing, slot: number): BlkSegment[] | undefined {
    const { shard } = this;
    const { slots } = shard.host;
    const { type } = ring.request;
    const { status, segments } = parseBlkSegments(type, this.payloadOf(ring, slot), {
      ...ZERO_LIMITS,
      capacityBytes: shard.shared.sizeBytes,
      blockSizeBytes: SECTOR_BYTES,
    });
    if (status !== BLK_STATUS.OK) {
      shard.metrics.countName(nameIndex('segments-invalid'));
      shard.finish(slot, status);
      return undefined;
    }
    slots.dataBytes[slot] = segments.reduce((sum, segment) => sum + segment.lengthBytes, 0);
    return segments;
  }

  /** Begins a request whose ranges are known; the device may be written. */
  start(slot: number, ranges: BlkSegment[], { discard }: { discard: boolean }): void {
    const { shard } = this;
    if (shard.file.fd < 0) return shard.finish(slot, BLK_STATUS.OK);
    shard.host.slots.kind[slot] = SLOT.ZERO;
    this.work.set(slot, { ranges, discard, way: 0 });
    return this.next(slot);
  }

  /** One step is done: `result` bytes for a plain write, else 0. */
  completed(slot: number, result: number): void {
    const { ranges } = this.work.get(slot)!;
    const range = ranges[0]!;
    if (result > 0 && result < range.lengthBytes) {
      ranges[0] = {
        ...range,
        offsetBytes: range.offsetBytes + result,
        lengthBytes: range.lengthBytes - result,
      };
    } else {
      ranges.shift();
    }
    this.next(slot);
  }

  /** Tries the next way when the file system lacks this one; false when the request has failed. */
  failed(slot: number, errno: number): boolean {
    const work = this.work.get(slot)!;
    if (errno === EOPNOTSUPP) {
      // Where files cannot have holes, a discard is only advice.
      if (work.discard) work.ranges.length = 0;
      else work.way += 1;
      if (work.discard || work.way < this.waysOf(work).length) {
        this.next(slot);
        return true;
      }
    }
    this.work.delete(slot);
    return false;
  }

  private waysOf(work: Work): readonly number[] {
    if (work.discard) return DISCARD_ONLY;
    return work.ranges[0]?.unmap ? PUNCH_FIRST : RANGE_FIRST;
  }

  private next(slot: number): void {
    const { shard } = this;
    const work = this.work.get(slot)!;
    const [range] = work.ranges;
    if (!range) {
      this.work.delete(slot);
      return shard.written(slot);
    }
    const way = this.waysOf(work)[work.way]!;
    const { offsetBytes, lengthBytes } = range;
    if (way === WRITE) {
      const address = zeroesAddress();
      const length = Math.min(lengthBytes, ZEROES_BYTES);
      const flags = shard.writeFlags(slot);
      return shard.submitEntry(
        slot,
        IO_URING.op.WRITE,
        offsetBytes,
        address % U32,
        Math.floor(address / U32),
        length,
        flags,
      );
    }
    // fallocate is never durable by itself.
    shard.host.slots.durable[slot] = 0;
    // struct io_uring_sqe: `addr` carries the length, `len` the mode.
    return shard.submitEntry(
      slot,
      IO_URING.op.FALLOCATE,
      offsetBytes,
      lengthBytes >>> 0,
      Math.floor(lengthBytes / U32),
      way,
      0,
    );
  }

  /** The request's own bytes, copied once; empty, which no parser takes, when there are more than any legal one has. */
  private payloadOf(ring: BlkRing, slot: number): Uint8Array {
    const { request, queue } = ring;
    const { slots } = this.shard.host;
    if (request.dataBytes > ZERO_LIMITS.maxSegments * SEGMENT_BYTES) return new Uint8Array(0);
    const list = slots.listFor(slot, request.segmentCount);
    if (!list) return new Uint8Array(0);
    const count = request.writeSegments(queue!.chain, list, 0);
    const payload = new Uint8Array(request.dataBytes);
    for (let index = 0, done = 0; index < count; index += 1) {
      const at = index * 4;
      native.peek(list[at + 1]! * U32 + list[at]!, payload, done, list[at + 2]!);
      done += list[at + 2]!;
    }
    return payload;
  }
}
