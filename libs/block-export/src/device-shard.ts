import { errnoName, IO_URING } from '@cairn/native';
import { BLK_STATUS, BLK_TYPE, SECTOR_BYTES, VirtqueueError } from '@cairn/virtio';
import type { BlkRing } from './blk-ring.js';
import { Bouncing } from './bouncing.js';
import { DeviceId } from './device-id.js';
import type { DeviceShared } from './device-shared.js';
import { errnoError, nameIndex, type RequestErrorName } from './failure-names.js';
import { hasParents } from './layer-files.js';
import { LayeredIo } from './layered-io.js';
import type { RateLimiter } from './rate-limiter.js';
import { SLOT, SOLE } from './request-slots.js';
import {
  IO_COMPLETION,
  RESERVED_SLOTS,
  type ShardHost,
  type ShardOptions,
  type ShardPort,
} from './shard-host.js';
import { COUNTER, HISTOGRAM, OPERATION, type ShardMetrics } from './shard-metrics.js';
import { ShardFlushes } from './shard-flushes.js';
import { ShardPauses } from './shard-pauses.js';
import { ShardRings } from './shard-rings.js';
import type { VolumeFile } from './volume-file.js';
import { Zeroing } from './zeroing.js';

// The hot path, whole: avail ring → chain → block request → slot → io_uring → status byte → used ring.
//
// A request is in exactly one place at a time. `start` puts it into a slot or finishes it at once; `completed` moves
// it on or finishes it; `finish` gives it back to the driver and frees the slot. Nothing else does.

/**
 * Bytes that one volume may take in one round, shared by its busy rings, and what a descriptor counts at least: deficit
 * round robin, so that volumes share their reactor by the work they make, whatever their requests and queues are.
 */
const QUANTUM_BYTES = 512 * 1024;
const DESCRIPTOR_COST_BYTES = 2048;

/** Most bytes in one entry; a longer request goes in steps, so that one guest cannot hold the thread for long. */
const STEP_BYTES = 4 * 1024 * 1024;

const U32 = 2 ** 32;
const EAGAIN = 11;
const EINTR = 4;
const EIO = 5;

/** The requests of one volume on one reactor thread. */
export class DeviceShard implements ShardPort {
  readonly metrics: ShardMetrics;
  readonly limiter: RateLimiter;
  readonly shared: DeviceShared;
  file: VolumeFile;
  readonly rings = new ShardRings(this);
  readonly pauses = new ShardPauses(this);
  readonly flushes = new ShardFlushes(this);
  inKernel = 0;
  /** Slots it holds, and its rings that the loop looks at. */
  held = 0;
  activeRings = 0;
  private readonly readOnly: boolean;
  private readonly deviceId: DeviceId;
  private readonly bouncing = new Bouncing(this);
  private readonly zeroing = new Zeroing(this);
  /** The path of a volume that has parents; undefined while it has one layer. */
  private layered: LayeredIo | undefined;

  constructor(
    readonly host: ShardHost,
    options: ShardOptions,
  ) {
    this.file = options.file;
    this.readOnly = options.readOnly;
    this.shared = options.shared;
    this.limiter = options.limiter;
    this.metrics = options.metrics;
    this.deviceId = new DeviceId(options.serial);
    if (hasParents(this.file)) this.layered = new LayeredIo(this, this.file);
  }

  // ---- what its export asks -------------------------------------------------------------------------------------

  /** No chain is taken while a request must be alone, or while the volume is frozen. */
  get paused(): boolean {
    return this.pauses.paused;
  }

  /** From now on the volume is what is open in `file`, and reads as before. Only its end may be new while requests run. */
  goOver(file: VolumeFile): void {
    this.file = file;
    if (!hasParents(file)) this.layered = undefined;
    else if (this.layered) this.layered.goOver(file);
    else this.layered = new LayeredIo(this, file);
  }

  // ---- the path -------------------------------------------------------------------------------------------------

  /** Takes the chains that are there, as far as there is room; returns how many. Never throws. */
  poll(ring: BlkRing): number {
    const { queue, request } = ring;
    if (!queue || this.paused || ring.stopping || ring.broken || ring.throttled) return 0;
    const { uring } = this.host;
    ring.deficit = Math.min(ring.deficit, 0) + QUANTUM_BYTES / this.activeRings;
    let taken = 0;
    let room = Math.min(this.room, uring.room - 2);
    try {
      while (room > 0 && ring.deficit > 0 && !this.paused) {
        const head = queue.peekAvail();
        if (head < 0) break;
        request.parse(queue.chain);
        const { dataBytes } = request;
        if (this.limiter.active && ring.waiters.length === 0 && !this.admit(ring, dataBytes)) break;
        queue.take(head);
        taken += 1;
        // Descriptors cost time, too, whatever their size.
        const cost = queue.chain.count * DESCRIPTOR_COST_BYTES;
        ring.deficit -= dataBytes > cost ? dataBytes : cost;
        this.start(ring, head);
        // A request of a volume that has parents may take several slots.
        room = this.layered ? Math.min(this.room, uring.room - 2) : room - 1;
      }
    } catch (error) {
      if (!(error instanceof VirtqueueError)) throw error;
      this.rings.breakDown(ring, error);
    }
    if (taken > 0) {
      this.metrics.observe(HISTOGRAM.ring, (this.host.now - ring.lookedAt) | 0);
      this.metrics.add(COUNTER.taken, taken);
    }
    ring.lookedAt = this.host.now;
    if (ring.waiters.length > 0 && !ring.resuming) this.rings.drain(ring);
    return taken;
  }

  /** One completion of `slot`: result in bytes, or -errno. */
  completed(slot: number, result: number): void {
    const { slots } = this.host;
    this.inKernel -= 1;
    const kind = slots.kind[slot]!;
    if (kind === SLOT.STEP) {
      this.layered!.stepped(slot, result);
    } else if (result < 0) {
      this.failedInKernel(slot, kind, -result);
    } else if (kind === SLOT.READ || kind === SLOT.WRITE) {
      if (result !== slots.remaining[slot]) {
        slots.advance(slot, result);
        if (result === 0) this.fault(slot, 'short-io');
        else this.submit(slot);
      } else if (kind === SLOT.READ) {
        this.finish(slot, BLK_STATUS.OK);
      } else {
        this.layered?.wrote(slot);
        this.written(slot);
      }
    } else if (kind === SLOT.FLUSH) {
      this.finish(slot, BLK_STATUS.OK);
    } else if (kind === SLOT.ZERO) {
      this.zeroing.completed(slot, result);
    } else if (kind === SLOT.DEVICE_FLUSH) {
      this.flushes.completed(slot, true);
    } else {
      this.bouncing.completed(slot, kind, result);
    }
    if (this.paused) this.bouncing.startExclusive();
  }

  /** May it take another slot? */
  get hasRoom(): boolean {
    return this.room > 0;
  }

  /** How many slots it may take: while other volumes are busy here, none takes more than its share. */
  private get room(): number {
    const { slots, slotShare } = this.host;
    return Math.min(slots.available - RESERVED_SLOTS, slotShare - this.held);
  }

  // ---- what several kinds of requests need --------------------------------------------------------------------

  takeSlot(): number {
    const slot = this.host.slots.take(this, undefined, SLOT.STEP);
    this.held += 1;
    return slot;
  }

  releaseSlot(slot: number): void {
    this.host.slots.release(slot);
    this.held -= 1;
    if (this.pauses.waiting) this.pauses.released(slot);
  }

  owns(slot: number): boolean {
    return this.host.slots.shard[slot] === this;
  }

  submitEntry(
    slot: number,
    op: number,
    offsetBytes: number,
    addressLow: number,
    addressHigh: number,
    length: number,
    opFlags: number,
  ): void {
    this.inKernel += 1;
    this.host.slots.noteSubmission(slot);
    this.host.uring.prepare(
      op,
      this.host.slots.fd[slot]!,
      offsetBytes >>> 0,
      (offsetBytes / U32) | 0,
      addressLow,
      addressHigh,
      length,
      opFlags,
      slot,
      IO_COMPLETION,
    );
  }

  submitFlush(slot: number): void {
    this.submitEntry(slot, IO_URING.op.FSYNC, 0, 0, 0, 0, IO_URING.fsync.DATASYNC);
  }

  writeFlags(slot: number): number {
    if (this.shared.writeThrough) return IO_URING.rw.DSYNC;
    this.host.slots.durable[slot] = 0;
    return 0;
  }

  written(slot: number): void {
    const { slots } = this.host;
    // The driver may have turned the cache off while the write was under way.
    if (slots.durable[slot] === 1 || !this.shared.writeThrough) return this.finish(slot, BLK_STATUS.OK);
    slots.kind[slot] = SLOT.FLUSH;
    return this.submitFlush(slot);
  }

  /** Gives a request back to the driver. */
  finish(slot: number, status: number): void {
    const { slots, now } = this.host;
    const ring = slots.ring[slot]!;
    ring.memory.writeByte(slots.status.low[slot]!, slots.status.high[slot]!, status);
    ring.log?.completed(slot, slots.status.low[slot]!, slots.status.high[slot]!);
    ring.queue!.complete(slots.head[slot]!, slots.written[slot]!);
    const { metrics } = this;
    const operation = slots.operation[slot]!;
    const submittedAt = slots.submittedAt[slot]!;
    metrics.finished(
      operation,
      (submittedAt - slots.takenAt[slot]!) | 0,
      (now - submittedAt) | 0,
      status === BLK_STATUS.OK ? slots.dataBytes[slot]! : 0,
    );
    if (this.layered) this.layered.ended(slot, status);
    this.host.markDirty(ring);
    this.releaseSlot(slot);
    if (ring.stopping) this.rings.endIfDrained(ring);
  }

  /** Completes with IOERR, counted under `name`. */
  fault(slot: number, name: RequestErrorName): void {
    this.metrics.countName(nameIndex(name));
    // virtio 1.2 §2.7.8.2: no more than is sure to be written.
    this.host.slots.written[slot] = 1;
    this.finish(slot, BLK_STATUS.IOERR);
  }

  // ---- steps of the path ----------------------------------------------------------------------------------------

  /** Asks the volume's rate limit; a chain that may not go now stays in the ring, and the ring is looked at later. */
  private admit(ring: BlkRing, bytes: number): boolean {
    const waitMicros = this.limiter.take(bytes, this.host.now, ring.turn);
    if (waitMicros === 0) return true;
    ring.throttled = true;
    this.host.wakeLater(ring, waitMicros);
    return false;
  }

  private start(ring: BlkRing, head: number): void {
    const { request } = ring;
    const { slots } = this.host;
    const slot = slots.take(this, ring, SLOT.READ);
    this.held += 1;
    slots.fd[slot] = this.file.fd;
    slots.durable[slot] = 1;
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
        if (this.file.fd < 0) return this.finish(slot, BLK_STATUS.OK);
        return this.submitFlush(slot);
      case BLK_TYPE.DISCARD:
      case BLK_TYPE.WRITE_ZEROES:
        slots.operation[slot] = OPERATION.discard;
        if (this.readOnly) return this.fault(slot, 'read-only');
        if (this.shared.hasFailed) return this.fault(slot, 'device-failed');
        return this.startZeroing(ring, slot);
      case BLK_TYPE.GET_ID:
        slots.operation[slot] = OPERATION.other;
        return this.deviceId.answer(this, ring, slot);
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
    if (request.dataBytes === 0 || this.file.fd < 0) return this.finish(slot, BLK_STATUS.OK);
    slots.kind[slot] = write ? SLOT.WRITE : SLOT.READ;
    slots.offset[slot] = request.sector * SECTOR_BYTES;
    slots.remaining[slot] = request.dataBytes;
    if (request.segmentCount === 1 && !this.layered && this.file.memoryMask === 0 && !ring.log) {
      slots.first[slot] = SOLE;
      slots.sole.low[slot] = request.soleLow(queue!.chain);
      slots.sole.high[slot] = request.soleHigh(queue!.chain);
      return this.submit(slot);
    }
    slots.first[slot] = 0;
    const list = slots.listFor(slot, request.segmentCount);
    if (!list) return this.fault(slot, 'no-memory');
    slots.segments[slot] = request.writeSegments(queue!.chain, list, 0);
    // Trusted from here: every address in the list is mapped guest memory, and the range lies inside the volume.
    if (!write && ring.log) ring.log.remember(slot, list, slots.segments[slot]);
    if (this.layered) return this.layered.start(slot, write);
    if (this.file.memoryMask !== 0 && this.bouncing.needed(slot)) return this.bouncing.start(slot, write);
    return this.submit(slot);
  }

  private startZeroing(ring: BlkRing, slot: number): void {
    const ranges = this.zeroing.parse(ring, slot);
    if (!ranges) return undefined;
    if (this.layered) return this.layered.zero(slot, ranges);
    return this.zeroing.start(slot, ranges, { discard: ring.request.type === BLK_TYPE.DISCARD });
  }

  /** Gives what is left of a transfer to the kernel, at most STEP_BYTES of it. */
  submit(slot: number): void {
    const { slots } = this.host;
    const write = slots.kind[slot] === SLOT.WRITE;
    const offset = slots.offset[slot]!;
    const flags = write ? this.writeFlags(slot) : 0;
    const op = write ? IO_URING.op.WRITE : IO_URING.op.READ;
    if (slots.first[slot] === SOLE) {
      const length = Math.min(slots.remaining[slot]!, STEP_BYTES);
      return this.submitEntry(slot, op, offset, slots.sole.low[slot]!, slots.sole.high[slot]!, length, flags);
    }
    if (slots.segments[slot] === 1 || slots.remaining[slot]! > STEP_BYTES) {
      const list = slots.list(slot);
      const at = slots.first[slot]! * 4;
      const length = Math.min(list[at + 2]!, STEP_BYTES);
      return this.submitEntry(slot, op, offset, list[at]!, list[at + 1]!, length, flags);
    }
    return this.submitEntry(
      slot,
      write ? IO_URING.op.WRITEV : IO_URING.op.READV,
      offset,
      slots.listLow(slot),
      slots.listHigh(slot),
      slots.segments[slot]!,
      flags,
    );
  }

  private failedInKernel(slot: number, kind: number, errno: number): void {
    if ((errno === EAGAIN || errno === EINTR) && (kind === SLOT.READ || kind === SLOT.WRITE))
      return this.submit(slot);
    if (kind === SLOT.ZERO && this.zeroing.failed(slot, errno)) return undefined;
    // The kernel may have dropped the dirty pages: a second fdatasync would succeed and prove nothing. A write that
    // had to be durable may report, and thereby clear, the error of other pages than its own.
    const flushed = kind === SLOT.FLUSH || kind === SLOT.DEVICE_FLUSH;
    const synced = errno === EIO && kind === SLOT.WRITE && this.host.slots.durable[slot] === 1;
    if (flushed || synced) this.shared.fail(errno);
    if (kind === SLOT.DEVICE_FLUSH) return this.flushes.completed(slot, false);
    this.bouncing.end(slot);
    return this.fault(slot, errnoError(errnoName(errno)));
  }
}
