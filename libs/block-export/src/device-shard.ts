import { errnoName, IO_URING, native } from '@cairn/native';
import type { RingFds, RingStart } from '@cairn/vhost-user';
import {
  BLK_STATUS,
  BLK_TYPE,
  type BlkSegment,
  parseBlkSegments,
  SECTOR_BYTES,
  VirtqueueError,
} from '@cairn/virtio';
import { BlkRing, type RingFeatures } from './blk-ring.js';
import { BounceBuffer } from './bounce.js';
import type { DeviceShared } from './device-shared.js';
import { errnoError, nameIndex, type RequestErrorName } from './failure-names.js';
import type { IoUring } from './io-uring.js';
import type { RateLimiter } from './rate-limiter.js';
import { type RequestSlots, SLOT } from './request-slots.js';
import { fileOf, HISTOGRAM, OPERATION, queueOf, type ShardMetrics } from './shard-metrics.js';
import type { ViewCache } from './view-cache.js';
import type { VolumeFile } from './volume-file.js';

// The hot path, whole: avail ring → chain → block request → slot → io_uring → status byte → used ring.
//
// A request is in exactly one place at a time. `start` puts it into a slot or finishes it at once; `completed` moves
// it on or finishes it; `finish` gives it back to the driver and frees the slot. Nothing else does.

/** High word of user_data for a slot's completion; the low word is the slot. */
export const IO_COMPLETION = 1;

/** Slots that guests' requests leave free, for flushes of our own. */
export const RESERVED_SLOTS = 8;

/**
 * Bytes that one ring may take in one round, and what a descriptor counts at least: deficit round robin, so that rings
 * share their reactor by the work they make, and one with large requests does not starve one with small ones.
 */
const QUANTUM_BYTES = 512 * 1024;
const DESCRIPTOR_COST_BYTES = 2048;

/** Most bytes in one entry; a longer request goes in steps, so that one guest cannot hold the thread for long. */
const STEP_BYTES = 4 * 1024 * 1024;

const SEGMENT_BYTES = 16; // struct virtio_blk_discard_write_zeroes
const SERIAL_BYTES = 20; // VIRTIO_BLK_ID_BYTES
const U32 = 2 ** 32;
const EAGAIN = 11;
const EINTR = 4;
const EOPNOTSUPP = 95;

/** Ranges of one DISCARD or WRITE_ZEROES request, and sectors of one range, at most; announced to the driver. */
export const ZERO_LIMITS = { maxSegments: 32, maxSectors: 2 ** 22 } as const;

const FALLOCATE = { ALLOCATE: 1, PUNCH: 3, ZERO: 0x11 } as const; // KEEP_SIZE, with PUNCH_HOLE, with ZERO_RANGE

/** What a shard needs of the loop that runs it. */
export interface ShardHost {
  readonly uring: IoUring;
  readonly slots: RequestSlots;
  readonly views: ViewCache;
  /** Microseconds, wrapped to int32: when this stage of the round began. */
  readonly now: number;
  ringStarted(ring: BlkRing): void;
  /** Publishes what is completed and forgets the ring. */
  ringStopped(ring: BlkRing): void;
  kickChanged(ring: BlkRing): void;
  /** Polls the ring from the next round on. */
  activate(ring: BlkRing): void;
  /** Publishes the ring's completions at the end of the round. */
  markDirty(ring: BlkRing): void;
  /** Polls the ring again in so many microseconds. */
  wakeLater(ring: BlkRing, micros: number): void;
}

export interface ShardOptions {
  file: VolumeFile;
  readOnly: boolean;
  serial: string;
  shared: DeviceShared;
  limiter: RateLimiter;
  metrics: ShardMetrics;
}

/** The requests of one volume on one reactor thread. */
export class DeviceShard {
  readonly metrics: ShardMetrics;
  readonly limiter: RateLimiter;
  /** No chain is taken while a request must be alone. */
  paused = false;
  /** Requests of this shard that are in the kernel. */
  inKernel = 0;
  private readonly file: VolumeFile;
  private readonly readOnly: boolean;
  private readonly shared: DeviceShared;
  private readonly serial: Uint8Array;
  private readonly rings = new Map<number, BlkRing>();
  private readonly bounces = new Map<number, BounceBuffer>();
  private readonly zeroing = new Map<number, { ranges: BlkSegment[]; discard: boolean; fallback: boolean }>();
  private readonly exclusive: number[] = [];
  private readonly flushWaiters = new Map<number, (ok: boolean) => void>();
  private readonly isNull: boolean;
  private writeFlags = 0;

  constructor(
    private readonly host: ShardHost,
    options: ShardOptions,
  ) {
    this.file = options.file;
    this.isNull = options.file.fd < 0;
    this.readOnly = options.readOnly;
    this.shared = options.shared;
    this.limiter = options.limiter;
    this.metrics = options.metrics;
    this.serial = new Uint8Array(SERIAL_BYTES);
    this.serial.set(new TextEncoder().encode(options.serial).subarray(0, SERIAL_BYTES));
  }

  // ---- rings ----------------------------------------------------------------------------------------------------

  startRing(start: RingStart, features: RingFeatures): void {
    const ring = new BlkRing(this, start, features, this.host.views);
    this.rings.set(start.index, ring);
    if (ring.broken) this.breakRing(ring, ring.broken);
    else this.host.ringStarted(ring);
  }

  stopRing(index: number, done: (nextAvail: number) => void): void {
    const ring = this.rings.get(index)!;
    ring.waiters.push(done);
    ring.stopping = true;
    this.limiter.cancel(ring.turn);
    this.endIfDrained(ring);
  }

  setRingFds(index: number, fds: RingFds): void {
    const ring = this.rings.get(index)!;
    const kickChanged = ring.fds.kickFd !== fds.kickFd;
    ring.fds = fds;
    if (kickChanged) this.host.kickChanged(ring);
    // A call that went to the descriptor before may not have been heard.
    else ring.signal('callFd');
  }

  /** Makes every completed write durable; `done(false)` when that failed or too much is going on at once. */
  flush(done: (ok: boolean) => void): void {
    if (this.isNull) return done(true);
    if (this.shared.hasFailed || this.host.slots.available === 0) return done(false);
    const slot = this.host.slots.take(this, undefined, SLOT.DEVICE_FLUSH);
    this.flushWaiters.set(slot, done);
    return this.submitFlush(slot);
  }

  // ---- the path -------------------------------------------------------------------------------------------------

  /** Takes the chains that are there, as far as there is room; returns how many. Never throws. */
  poll(ring: BlkRing): number {
    const { queue, request } = ring;
    if (!queue || this.paused || ring.stopping || ring.broken || ring.throttled) return 0;
    const { slots, uring } = this.host;
    this.writeFlags = this.shared.writeThrough ? IO_URING.rw.DSYNC : 0;
    ring.deficit = Math.min(ring.deficit, 0) + QUANTUM_BYTES;
    let taken = 0;
    try {
      while (ring.deficit > 0 && slots.available > RESERVED_SLOTS && uring.room > 2 && !this.paused) {
        const head = queue.peekAvail();
        if (head < 0) break;
        request.parse(queue.chain);
        const { dataBytes } = request;
        if (this.limiter.active && !this.admit(ring, dataBytes)) break;
        queue.take(head);
        taken += 1;
        // Descriptors cost time, too, whatever their size.
        const cost = queue.chain.count * DESCRIPTOR_COST_BYTES;
        ring.deficit -= dataBytes > cost ? dataBytes : cost;
        this.start(ring, head);
      }
    } catch (error) {
      if (!(error instanceof VirtqueueError)) throw error;
      this.breakRing(ring, error);
    }
    if (taken > 0) {
      this.metrics.observe(HISTOGRAM.ring, (this.host.now - ring.lookedAt) | 0);
      this.metrics.add('taken', taken);
    }
    ring.lookedAt = this.host.now;
    return taken;
  }

  /** One completion of `slot`: result in bytes, or -errno. */
  completed(slot: number, result: number): void {
    const { slots } = this.host;
    this.inKernel -= 1;
    const kind = slots.kind[slot]!;
    if (result < 0) {
      this.failedInKernel(slot, kind, -result);
    } else if (kind === SLOT.READ || kind === SLOT.WRITE) {
      slots.advance(slot, result);
      if (slots.remaining[slot] === 0) this.finish(slot, BLK_STATUS.OK);
      else if (result === 0) this.fault(slot, 'short-io');
      else this.submit(slot);
    } else if (kind === SLOT.FLUSH) {
      this.finish(slot, BLK_STATUS.OK);
    } else if (kind === SLOT.ZERO) {
      this.zeroed(slot);
    } else if (kind === SLOT.DEVICE_FLUSH) {
      this.deviceFlushed(slot, true);
    } else {
      this.bounced(slot, kind, result);
    }
    if (this.exclusive.length > 0) this.startExclusive();
  }

  /** Asks the volume's rate limit; a chain that may not go now stays in the ring, and the ring is looked at later. */
  private admit(ring: BlkRing, bytes: number): boolean {
    const waitMicros = this.limiter.take(bytes, this.host.now, ring.turn);
    if (waitMicros === 0) return true;
    ring.throttled = true;
    this.host.wakeLater(ring, waitMicros);
    return false;
  }

  private start(ring: BlkRing, head: number): void {
    const { request, queue } = ring;
    const { slots } = this.host;
    const slot = slots.take(this, ring, SLOT.READ);
    slots.head[slot] = head;
    slots.status.low[slot] = request.statusLow;
    slots.status.high[slot] = request.statusHigh;
    slots.dataBytes[slot] = 0;
    slots.written[slot] = 1;
    slots.takenAt[slot] = this.host.now;
    slots.submittedAt[slot] = this.host.now;
    switch (request.type) {
      case BLK_TYPE.IN:
      case BLK_TYPE.OUT:
        return this.startTransfer(ring, slot);
      case BLK_TYPE.FLUSH:
        slots.operation[slot] = OPERATION.flush;
        slots.kind[slot] = SLOT.FLUSH;
        if (this.shared.hasFailed) return this.fault(slot, 'device-failed');
        if (this.isNull) return this.finish(slot, BLK_STATUS.OK);
        return this.submitFlush(slot);
      case BLK_TYPE.DISCARD:
      case BLK_TYPE.WRITE_ZEROES:
        slots.operation[slot] = OPERATION.discard;
        return this.startZeroing(ring, slot);
      case BLK_TYPE.GET_ID: {
        slots.operation[slot] = OPERATION.other;
        const list = slots.listFor(slot, request.segmentCount);
        if (!list) return this.fault(slot, 'no-memory');
        return this.answerId(slot, request.writeSegments(queue!.chain, list, 0), request.dataBytes);
      }
      default:
        slots.operation[slot] = OPERATION.other;
        this.metrics.countName(nameIndex('unsupported'));
        return this.finish(slot, BLK_STATUS.UNSUPP);
    }
  }

  private startTransfer(ring: BlkRing, slot: number): void {
    const { request, queue } = ring;
    const { slots } = this.host;
    const write = request.type === BLK_TYPE.OUT;
    slots.operation[slot] = write ? OPERATION.write : OPERATION.read;
    if (!write) slots.written[slot] = request.dataBytes + 1;
    if (write && this.readOnly) return this.fault(slot, 'read-only');
    if (write && this.shared.hasFailed) return this.fault(slot, 'device-failed');
    if (request.dataBytes % SECTOR_BYTES !== 0) return this.fault(slot, 'length-not-in-sectors');
    if (request.sector + request.dataBytes / SECTOR_BYTES > this.shared.capacitySectors) {
      return this.fault(slot, 'out-of-range');
    }
    slots.dataBytes[slot] = request.dataBytes;
    if (request.dataBytes === 0 || this.isNull) return this.finish(slot, BLK_STATUS.OK);
    slots.kind[slot] = write ? SLOT.WRITE : SLOT.READ;
    slots.offset[slot] = request.sector * SECTOR_BYTES;
    slots.remaining[slot] = request.dataBytes;
    slots.first[slot] = 0;
    const list = slots.listFor(slot, request.segmentCount);
    if (!list) return this.fault(slot, 'no-memory');
    slots.segments[slot] = request.writeSegments(queue!.chain, list, 0);
    // Trusted from here: every address in the list is mapped guest memory, and the range lies inside the volume.
    if (!write && ring.log) ring.log.remember(slot, list, slots.segments[slot]);
    if (this.file.memoryMask !== 0 && !this.aligned(slot)) return this.startBounce(slot, write);
    return this.submit(slot);
  }

  /** Gives what is left of a transfer to the kernel, at most STEP_BYTES of it. */
  private submit(slot: number): void {
    const { slots, uring } = this.host;
    const write = slots.kind[slot] === SLOT.WRITE;
    const offset = slots.offset[slot]!;
    const flags = write ? this.writeFlags : 0;
    this.inKernel += 1;
    this.host.slots.noteSubmission(slot);
    if (slots.segments[slot] === 1 || slots.remaining[slot]! > STEP_BYTES) {
      const list = slots.list(slot);
      const at = slots.first[slot]! * 4;
      uring.prepare(
        write ? IO_URING.op.WRITE : IO_URING.op.READ,
        this.file.fd,
        offset >>> 0,
        (offset / U32) | 0,
        list[at]!,
        list[at + 1]!,
        Math.min(list[at + 2]!, STEP_BYTES),
        flags,
        slot,
        IO_COMPLETION,
      );
      return;
    }
    uring.prepare(
      write ? IO_URING.op.WRITEV : IO_URING.op.READV,
      this.file.fd,
      offset >>> 0,
      (offset / U32) | 0,
      slots.listLow(slot),
      slots.listHigh(slot),
      slots.segments[slot]!,
      flags,
      slot,
      IO_COMPLETION,
    );
  }

  private submitFlush(slot: number): void {
    this.inKernel += 1;
    this.host.slots.noteSubmission(slot);
    const { FSYNC } = IO_URING.op;
    this.host.uring.prepare(FSYNC, this.file.fd, 0, 0, 0, 0, 0, IO_URING.fsync.DATASYNC, slot, IO_COMPLETION);
  }

  /** Gives a request back to the driver. */
  private finish(slot: number, status: number): void {
    const { slots, now } = this.host;
    const ring = slots.ring[slot]!;
    ring.memory.writeByte(slots.status.low[slot]!, slots.status.high[slot]!, status);
    ring.log?.completed(slot, slots.status.low[slot]!, slots.status.high[slot]!);
    ring.queue!.complete(slots.head[slot]!, slots.written[slot]!);
    const { metrics } = this;
    const operation = slots.operation[slot]!;
    metrics.countRequest(operation);
    metrics.observe(queueOf(operation), (slots.submittedAt[slot]! - slots.takenAt[slot]!) | 0);
    metrics.observe(fileOf(operation), (now - slots.submittedAt[slot]!) | 0);
    if (status === BLK_STATUS.OK) {
      if (operation === OPERATION.read) metrics.add('bytesRead', slots.dataBytes[slot]!);
      else if (operation === OPERATION.write) metrics.add('bytesWritten', slots.dataBytes[slot]!);
      else if (operation === OPERATION.discard) metrics.add('bytesDiscarded', slots.dataBytes[slot]!);
    }
    slots.release(slot);
    this.host.markDirty(ring);
    if (ring.stopping) this.endIfDrained(ring);
  }

  /** Completes with IOERR, counted under `name`. */
  private fault(slot: number, name: RequestErrorName): void {
    this.metrics.countName(nameIndex(name));
    this.finish(slot, BLK_STATUS.IOERR);
  }

  private failedInKernel(slot: number, kind: number, errno: number): void {
    if ((errno === EAGAIN || errno === EINTR) && (kind === SLOT.READ || kind === SLOT.WRITE))
      return this.submit(slot);
    if (kind === SLOT.ZERO && this.zeroOtherwise(slot, errno)) return undefined;
    // The kernel may have dropped the dirty pages: a second fdatasync would succeed and prove nothing.
    if (kind === SLOT.FLUSH || kind === SLOT.DEVICE_FLUSH) this.shared.fail(errno);
    if (kind === SLOT.DEVICE_FLUSH) return this.deviceFlushed(slot, false);
    this.endBounce(slot);
    this.zeroing.delete(slot);
    return this.fault(slot, errnoError(errnoName(errno)));
  }

  private deviceFlushed(slot: number, ok: boolean): void {
    const done = this.flushWaiters.get(slot);
    this.flushWaiters.delete(slot);
    this.host.slots.release(slot);
    done?.(ok);
  }

  private answerId(slot: number, segments: number, dataBytes: number): void {
    const list = this.host.slots.list(slot);
    const bytes = Math.min(SERIAL_BYTES, dataBytes);
    for (let index = 0, done = 0; index < segments && done < bytes; index += 1) {
      const part = Math.min(list[index * 4 + 2]!, bytes - done);
      native.poke(list[index * 4 + 1]! * U32 + list[index * 4]!, this.serial, done, part);
      done += part;
    }
    const { log } = this.host.slots.ring[slot]!;
    log?.remember(slot, list, segments);
    this.host.slots.written[slot] = bytes + 1;
    this.finish(slot, BLK_STATUS.OK);
  }

  // ---- discard and write zeroes (virtio 1.2 §5.2.6) -------------------------------------------------------------

  private startZeroing(ring: BlkRing, slot: number): void {
    const { request } = ring;
    const { slots } = this.host;
    if (this.readOnly) return this.fault(slot, 'read-only');
    if (this.shared.hasFailed) return this.fault(slot, 'device-failed');
    const discard = request.type === BLK_TYPE.DISCARD;
    const payload = this.payloadOf(ring, slot);
    const { status, segments } = parseBlkSegments(request.type, payload, {
      ...ZERO_LIMITS,
      capacityBytes: this.shared.sizeBytes,
      blockSizeBytes: SECTOR_BYTES,
    });
    if (status !== BLK_STATUS.OK) {
      this.metrics.countName(nameIndex('segments-invalid'));
      return this.finish(slot, status);
    }
    if (this.isNull) return this.finish(slot, BLK_STATUS.OK);
    slots.kind[slot] = SLOT.ZERO;
    slots.dataBytes[slot] = segments.reduce((sum, segment) => sum + segment.lengthBytes, 0);
    this.zeroing.set(slot, { ranges: segments, discard, fallback: false });
    return this.zeroNext(slot);
  }

  /** The request's own bytes, copied once; empty, which no parser takes, when there are more than any legal one has. */
  private payloadOf(ring: BlkRing, slot: number): Uint8Array {
    const { request, queue } = ring;
    const { slots } = this.host;
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

  private zeroNext(slot: number): void {
    const work = this.zeroing.get(slot)!;
    const [range] = work.ranges;
    if (!range) {
      this.zeroing.delete(slot);
      if (this.writeFlags === 0) return this.finish(slot, BLK_STATUS.OK);
      this.host.slots.kind[slot] = SLOT.FLUSH;
      return this.submitFlush(slot);
    }
    const { offsetBytes, lengthBytes } = range;
    const punch = work.discard || range.unmap || work.fallback;
    return this.submitAllocate(slot, punch ? FALLOCATE.PUNCH : FALLOCATE.ZERO, offsetBytes, lengthBytes);
  }

  private submitAllocate(slot: number, mode: number, offset: number, length: number): void {
    this.inKernel += 1;
    this.host.slots.noteSubmission(slot);
    const [low, high] = [offset >>> 0, (offset / U32) | 0];
    const [lengthLow, lengthHigh] = [length >>> 0, (length / U32) | 0];
    const { fd } = this.file;
    // struct io_uring_sqe: `addr` carries the length, `len` the mode.
    this.host.uring.prepare(
      IO_URING.op.FALLOCATE,
      fd,
      low,
      high,
      lengthLow,
      lengthHigh,
      mode,
      0,
      slot,
      IO_COMPLETION,
    );
  }

  private zeroed(slot: number): void {
    this.zeroing.get(slot)!.ranges.shift();
    this.zeroNext(slot);
  }

  /** A file system without ZERO_RANGE (tmpfs): a hole reads as zeroes, too. Without holes, a discard is only advice. */
  private zeroOtherwise(slot: number, errno: number): boolean {
    const work = this.zeroing.get(slot)!;
    if (errno !== EOPNOTSUPP) return false;
    if (work.discard) {
      this.zeroed(slot);
      return true;
    }
    if (work.fallback || work.ranges[0]!.unmap) return false;
    work.fallback = true;
    this.zeroNext(slot);
    return true;
  }

  // ---- O_DIRECT with buffers it cannot take ---------------------------------------------------------------------

  private aligned(slot: number): boolean {
    const { slots } = this.host;
    const { memoryMask, offsetMask } = this.file;
    if (((slots.offset[slot]! | slots.remaining[slot]!) & offsetMask) !== 0) return false;
    const list = slots.list(slot);
    for (let index = 0, at = 0; index < slots.segments[slot]!; index += 1, at += 4) {
      if (((list[at]! | list[at + 2]!) & memoryMask) !== 0) return false;
      if ((list[at + 2]! & offsetMask) !== 0) return false;
    }
    return true;
  }

  private startBounce(slot: number, write: boolean): void {
    const { slots } = this.host;
    const bounce = BounceBuffer.make(this.file.offsetMask);
    if (!bounce) return this.fault(slot, 'no-memory');
    this.bounces.set(slot, bounce);
    slots.kind[slot] = write ? SLOT.BOUNCE_WRITE : SLOT.BOUNCE_READ;
    bounce.frame(slots.offset[slot]!, slots.remaining[slot]!);
    if (!write || ((slots.offset[slot]! | slots.remaining[slot]!) & this.file.offsetMask) === 0) {
      return this.stepBounce(slot, bounce);
    }
    // Less than a block: read, patch, write. Two of them on one block would undo each other, so it must be alone.
    this.exclusive.push(slot);
    this.paused = true;
    return this.startExclusive();
  }

  private startExclusive(): void {
    if (this.inKernel > 0) return;
    const [slot] = this.exclusive;
    if (slot !== undefined) this.stepBounce(slot, this.bounces.get(slot)!);
  }

  private stepBounce(slot: number, bounce: BounceBuffer): void {
    const { slots } = this.host;
    const reading = slots.kind[slot] === SLOT.BOUNCE_READ;
    if (reading) return this.submitBounce(slot, bounce, IO_URING.op.READ);
    if (bounce.partial) {
      slots.kind[slot] = SLOT.PATCH_READ;
      return this.submitBounce(slot, bounce, IO_URING.op.READ);
    }
    bounce.copy(slots, slot, 'from-guest');
    return this.submitBounce(slot, bounce, IO_URING.op.WRITE);
  }

  private submitBounce(slot: number, bounce: BounceBuffer, op: number): void {
    this.inKernel += 1;
    this.host.slots.noteSubmission(slot);
    const flags = op === IO_URING.op.WRITE ? this.writeFlags : 0;
    const { start, addressLow, addressHigh, length } = bounce;
    const { fd } = this.file;
    const [low, high] = [start >>> 0, (start / U32) | 0];
    this.host.uring.prepare(op, fd, low, high, addressLow, addressHigh, length, flags, slot, IO_COMPLETION);
  }

  private bounced(slot: number, kind: number, result: number): void {
    const { slots } = this.host;
    const bounce = this.bounces.get(slot)!;
    if (result < bounce.length) {
      this.endBounce(slot);
      return this.fault(slot, 'short-io');
    }
    if (kind === SLOT.PATCH_READ) {
      bounce.copy(slots, slot, 'from-guest');
      slots.kind[slot] = SLOT.PATCH_WRITE;
      return this.submitBounce(slot, bounce, IO_URING.op.WRITE);
    }
    if (kind === SLOT.BOUNCE_READ) bounce.copy(slots, slot, 'to-guest');
    if (kind === SLOT.PATCH_WRITE) slots.kind[slot] = SLOT.BOUNCE_WRITE;
    slots.advance(slot, bounce.count);
    if (slots.remaining[slot]! > 0) {
      bounce.frame(slots.offset[slot]!, slots.remaining[slot]!);
      return this.stepBounce(slot, bounce);
    }
    this.endBounce(slot);
    return this.finish(slot, BLK_STATUS.OK);
  }

  private endBounce(slot: number): void {
    this.bounces.get(slot)?.close();
    this.bounces.delete(slot);
    if (this.exclusive[0] !== slot) return;
    this.exclusive.shift();
    this.paused = this.exclusive.length > 0;
    if (!this.paused) for (const ring of this.rings.values()) this.host.activate(ring);
  }

  // ---- state ----------------------------------------------------------------------------------------------------

  /** The driver broke a ring: it is not looked at again until it is set up anew (virtio 1.2 §2.1.2). */
  private breakRing(ring: BlkRing, error: VirtqueueError): void {
    ring.broken = error;
    this.limiter.cancel(ring.turn);
    this.metrics.countName(nameIndex(error.fault));
    ring.signal('errFd');
  }

  private endIfDrained(ring: BlkRing): void {
    if (ring.inFlight > 0) return;
    this.rings.delete(ring.index);
    this.host.ringStopped(ring);
    const { nextAvail } = ring;
    ring.release();
    for (const done of ring.waiters.splice(0)) done(nextAvail);
  }
}
