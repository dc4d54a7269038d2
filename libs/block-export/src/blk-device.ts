import { closeSync } from 'node:fs';
import { errnoName, IO_URING, native } from '@cairn/native';
import type { RingStart, VhostUserBackend, Vring } from '@cairn/vhost-user';
import {
  BLK_STATUS,
  BLK_TYPE,
  BlkConfigSpace,
  FEATURE,
  FeatureSet,
  SECTOR_BYTES,
  VirtqueueError,
} from '@cairn/virtio';
import { BlkRing } from './blk-ring.js';
import { BounceBuffer } from './bounce.js';
import type { IoUring } from './io-uring.js';
import { type RequestSlots, SLOT } from './request-slots.js';
import type { VolumeFile } from './volume-file.js';

// The hot path, whole: avail ring → chain → block request → slot → io_uring → status byte → used ring.
//
// A request is in exactly one place at a time. `start` puts it into a slot or finishes it at once; `completed` moves
// it on or finishes it; `finish` gives it back to the driver and frees the slot. Nothing else does.

/** High word of user_data for a slot's completion; the low word is the slot. */
export const IO_COMPLETION = 1;

/** Chains taken from one ring in one round, so that a busy ring does not starve the others of its reactor. */
const ROUND_BUDGET = 64;

/** Descriptors for which a chain counts as one more of the round's budget: what it costs grows with its length. */
const BUDGET_DESCRIPTORS = 32;

/** Slots that guests' requests leave free, for flushes of our own. */
export const RESERVED_SLOTS = 8;

/** Most bytes in one entry; a longer request goes in steps, so that one guest cannot hold the thread for long. */
const STEP_BYTES = 4 * 1024 * 1024;

const SEG_MAX = 126; // 128-entry rings hold it with header and status even without indirect descriptors
const SIZE_MAX_BYTES = 1024 * 1024;
const SERIAL_BYTES = 20; // VIRTIO_BLK_ID_BYTES
const U32 = 2 ** 32;
const EAGAIN = 11;
const EINTR = 4;

/** What a device needs of the loop that runs it. */
export interface DeviceHost {
  readonly uring: IoUring;
  readonly slots: RequestSlots;
  ringStarted(ring: BlkRing): void;
  /** Publishes what is completed and forgets the ring. */
  ringStopped(ring: BlkRing): void;
  ringDescriptorsChanged(ring: BlkRing): void;
  /** Polls the ring from the next round on. */
  activate(ring: BlkRing): void;
  /** Publishes the ring's completions at the end of the round. */
  markDirty(ring: BlkRing): void;
}

export interface BlkDeviceOptions {
  file: VolumeFile;
  readOnly: boolean;
  numQueues: number;
  serial: string;
}

/** A block device over one volume file, served to one front-end at a time. */
export class BlkDevice implements VhostUserBackend {
  readonly queueCount: number;
  readonly offeredFeatures: FeatureSet;
  /** Requests and bytes done, errors and guest faults by name; read by the metrics. */
  readonly counters = { requests: 0, bytesRead: 0, bytesWritten: 0 };
  readonly errors = new Map<string, number>();
  readonly faults = new Map<string, number>();
  /** Why nothing is written any more: a flush failed, so that it is unknown what is on the disk. */
  failed: string | undefined;
  /** No chain is taken while a request must be alone. */
  paused = false;
  /** Requests of this device that are in the kernel. */
  inKernel = 0;
  private readonly file: VolumeFile;
  private readonly readOnly: boolean;
  private readonly config: BlkConfigSpace;
  private readonly serial: Uint8Array;
  private readonly rings = new Set<BlkRing>();
  private readonly bounces = new Map<number, BounceBuffer>();
  private readonly exclusive: number[] = [];
  private readonly flushWaiters = new Map<number, (ok: boolean) => void>();
  private capacitySectors: number;
  private features = FeatureSet.of();
  private writeFlags = 0;

  constructor(
    private readonly host: DeviceHost,
    options: BlkDeviceOptions,
  ) {
    this.file = options.file;
    this.readOnly = options.readOnly;
    this.queueCount = options.numQueues;
    this.capacitySectors = options.file.sizeBytes / SECTOR_BYTES;
    this.offeredFeatures = FeatureSet.of(
      FEATURE.VERSION_1,
      FEATURE.VHOST_USER_PROTOCOL_FEATURES,
      FEATURE.RING_EVENT_IDX,
      FEATURE.RING_INDIRECT_DESC,
      FEATURE.BLK_SIZE_MAX,
      FEATURE.BLK_SEG_MAX,
      FEATURE.BLK_BLK_SIZE,
      FEATURE.BLK_TOPOLOGY,
      FEATURE.BLK_FLUSH,
      FEATURE.BLK_CONFIG_WCE,
      FEATURE.BLK_MQ,
      ...(options.readOnly ? [FEATURE.BLK_RO] : []),
    );
    const blockSizeBytes = Math.max(SECTOR_BYTES, options.file.offsetMask + 1);
    this.config = new BlkConfigSpace({
      capacityBytes: options.file.sizeBytes,
      blockSizeBytes,
      segMax: SEG_MAX,
      sizeMaxBytes: SIZE_MAX_BYTES,
      numQueues: options.numQueues,
      physicalBlockExponent: Math.max(0, Math.log2(4096 / blockSizeBytes)), // file systems allocate 4 KiB blocks
      optimalIoBlocks: 0,
    });
    this.serial = new Uint8Array(SERIAL_BYTES);
    this.serial.set(new TextEncoder().encode(options.serial).subarray(0, SERIAL_BYTES));
    this.applyCachePolicy();
  }

  get sizeBytes(): number {
    return this.capacitySectors * SECTOR_BYTES;
  }

  // ---- session side ---------------------------------------------------------------------------------------------

  setFeatures(features: FeatureSet): void {
    this.features = features;
    this.applyCachePolicy();
  }

  startRing(start: RingStart): void {
    const ring = new BlkRing(this, start, {
      eventIdx: this.features.has(FEATURE.RING_EVENT_IDX),
      indirect: this.features.has(FEATURE.RING_INDIRECT_DESC),
    });
    this.rings.add(ring);
    if (ring.broken) this.breakRing(ring, ring.broken);
    else this.host.ringStarted(ring);
  }

  stopRing(vring: Vring, done: (nextAvail: number) => void): void {
    const ring = this.ringOf(vring);
    if (!ring) return done(vring.nextAvail);
    ring.waiters.push(done);
    ring.stopping = true;
    return this.endIfDrained(ring);
  }

  ringDescriptorsChanged(vring: Vring): void {
    const ring = this.ringOf(vring);
    if (ring) this.host.ringDescriptorsChanged(ring);
  }

  readConfig(offset: number, size: number): Uint8Array | undefined {
    return this.config.read(offset, size);
  }

  /** Turning the cache off makes everything before it durable, too: from then on the driver need not flush. */
  writeConfig(offset: number, data: Uint8Array, done: (accepted: boolean) => void): void {
    const before = this.config.writeback;
    const accepted = this.config.write(offset, data);
    this.applyCachePolicy();
    if (accepted && before && !this.config.writeback) return this.flush(done);
    return done(accepted);
  }

  /** A new front-end finds the device as after a reset. */
  reset(): void {
    this.features = FeatureSet.of();
    this.config.writeback = true;
    this.applyCachePolicy();
  }

  setCapacity(sizeBytes: number): void {
    this.capacitySectors = sizeBytes / SECTOR_BYTES;
    this.config.setCapacity(sizeBytes);
  }

  /** Makes every completed write durable; `done(false)` when that failed or too much is going on at once. */
  flush(done: (ok: boolean) => void): void {
    if (this.failed !== undefined || this.host.slots.available === 0) return done(false);
    const slot = this.host.slots.take(this, undefined, SLOT.DEVICE_FLUSH);
    this.flushWaiters.set(slot, done);
    return this.submitFlush(slot);
  }

  close(): void {
    closeSync(this.file.fd);
  }

  // ---- ring side ------------------------------------------------------------------------------------------------

  /** Takes the chains that are there, as far as there is room; returns how many. Never throws. */
  poll(ring: BlkRing): number {
    const { queue, request } = ring;
    if (!queue || this.paused || ring.stopping || ring.broken) return 0;
    const { slots, uring } = this.host;
    let taken = 0;
    let budget = ROUND_BUDGET;
    try {
      while (budget > 0 && slots.available > RESERVED_SLOTS && uring.room > 2 && !this.paused) {
        const head = queue.peekAvail();
        if (head < 0) break;
        request.parse(queue.chain);
        queue.take(head);
        taken += 1;
        budget -= 1 + ((queue.chain.count / BUDGET_DESCRIPTORS) | 0);
        this.start(ring, head);
      }
    } catch (error) {
      if (!(error instanceof VirtqueueError)) throw error;
      this.breakRing(ring, error);
    }
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
    } else if (kind === SLOT.DEVICE_FLUSH) {
      this.deviceFlushed(slot, true);
    } else {
      this.bounced(slot, kind, result);
    }
    if (this.exclusive.length > 0) this.startExclusive();
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
    switch (request.type) {
      case BLK_TYPE.IN:
      case BLK_TYPE.OUT:
        return this.startTransfer(ring, slot);
      case BLK_TYPE.FLUSH:
        if (this.failed !== undefined) return this.fault(slot, 'device-failed');
        slots.kind[slot] = SLOT.FLUSH;
        return this.submitFlush(slot);
      case BLK_TYPE.GET_ID: {
        const list = slots.listFor(slot, request.segmentCount);
        if (!list) return this.fault(slot, 'no-memory');
        return this.answerId(slot, request.writeSegments(queue!.chain, list, 0), request.dataBytes);
      }
      default:
        return this.finish(slot, BLK_STATUS.UNSUPP);
    }
  }

  private startTransfer(ring: BlkRing, slot: number): void {
    const { request, queue } = ring;
    const { slots } = this.host;
    const write = request.type === BLK_TYPE.OUT;
    if (!write) slots.written[slot] = request.dataBytes + 1;
    if (write && this.readOnly) return this.fault(slot, 'read-only');
    if (write && this.failed !== undefined) return this.fault(slot, 'device-failed');
    if (request.dataBytes % SECTOR_BYTES !== 0) return this.fault(slot, 'length-not-in-sectors');
    if (request.sector + request.dataBytes / SECTOR_BYTES > this.capacitySectors)
      return this.fault(slot, 'out-of-range');
    if (request.dataBytes === 0) return this.finish(slot, BLK_STATUS.OK);
    slots.kind[slot] = write ? SLOT.WRITE : SLOT.READ;
    slots.dataBytes[slot] = request.dataBytes;
    slots.offset[slot] = request.sector * SECTOR_BYTES;
    slots.remaining[slot] = request.dataBytes;
    slots.first[slot] = 0;
    const list = slots.listFor(slot, request.segmentCount);
    if (!list) return this.fault(slot, 'no-memory');
    slots.segments[slot] = request.writeSegments(queue!.chain, list, 0);
    // Trusted from here: every address in the list is mapped guest memory, and the range lies inside the volume.
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
    if (slots.segments[slot] === 1 || slots.remaining[slot]! > STEP_BYTES) {
      const list = slots.list(slot);
      const at = slots.first[slot]! * 4;
      const op = write ? IO_URING.op.WRITE : IO_URING.op.READ;
      const length = Math.min(list[at + 2]!, STEP_BYTES);
      const { fd } = this.file;
      uring.prepare(
        op,
        fd,
        offset >>> 0,
        (offset / U32) | 0,
        list[at]!,
        list[at + 1]!,
        length,
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
    const { FSYNC } = IO_URING.op;
    this.host.uring.prepare(FSYNC, this.file.fd, 0, 0, 0, 0, 0, IO_URING.fsync.DATASYNC, slot, IO_COMPLETION);
  }

  /** Gives a request back to the driver. */
  private finish(slot: number, status: number): void {
    const { slots } = this.host;
    const ring = slots.ring[slot]!;
    ring.memory.writeByte(slots.status.low[slot]!, slots.status.high[slot]!, status);
    ring.queue!.complete(slots.head[slot]!, slots.written[slot]!);
    this.counters.requests += 1;
    if (status === BLK_STATUS.OK) {
      const kind = slots.kind[slot];
      const wrote = kind === SLOT.WRITE || kind === SLOT.BOUNCE_WRITE;
      if (wrote) this.counters.bytesWritten += slots.dataBytes[slot]!;
      else this.counters.bytesRead += slots.dataBytes[slot]!;
    }
    slots.release(slot);
    this.host.markDirty(ring);
    if (ring.stopping) this.endIfDrained(ring);
  }

  /** Completes with IOERR, counted under `name`. */
  private fault(slot: number, name: string): void {
    this.errors.set(name, (this.errors.get(name) ?? 0) + 1);
    this.finish(slot, BLK_STATUS.IOERR);
  }

  private failedInKernel(slot: number, kind: number, errno: number): void {
    if ((errno === EAGAIN || errno === EINTR) && (kind === SLOT.READ || kind === SLOT.WRITE))
      return this.submit(slot);
    const name = errnoName(errno);
    if (kind === SLOT.FLUSH || kind === SLOT.DEVICE_FLUSH) {
      // The kernel may have dropped the dirty pages: a second fdatasync would succeed and prove nothing.
      this.failed ??= `fdatasync failed with ${name}; what was written since the last flush may be lost`;
    }
    if (kind === SLOT.DEVICE_FLUSH) return this.deviceFlushed(slot, false);
    this.endBounce(slot);
    return this.fault(slot, name);
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
    this.host.slots.written[slot] = bytes + 1;
    this.finish(slot, BLK_STATUS.OK);
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
    const flags = op === IO_URING.op.WRITE ? this.writeFlags : 0;
    const { start, addressLow, addressHigh, length } = bounce;
    const { fd } = this.file;
    this.host.uring.prepare(
      op,
      fd,
      start >>> 0,
      (start / U32) | 0,
      addressLow,
      addressHigh,
      length,
      flags,
      slot,
      IO_COMPLETION,
    );
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
    if (!this.paused) for (const ring of this.rings) this.host.activate(ring);
  }

  // ---- state ----------------------------------------------------------------------------------------------------

  /** The driver broke a ring: it is not looked at again until it is set up anew (virtio 1.2 §2.1.2). */
  private breakRing(ring: BlkRing, error: VirtqueueError): void {
    ring.broken = error;
    this.faults.set(error.fault, (this.faults.get(error.fault) ?? 0) + 1);
    const { errFd } = ring.vring;
    if (errFd !== undefined && native.signal(errFd) === -EINTR) ring.vring.replaceFd('errFd', undefined);
  }

  private endIfDrained(ring: BlkRing): void {
    if (ring.inFlight > 0) return;
    this.rings.delete(ring);
    this.host.ringStopped(ring);
    const { nextAvail } = ring;
    ring.release();
    for (const done of ring.waiters.splice(0)) done(nextAvail);
  }

  private ringOf(vring: Vring): BlkRing | undefined {
    for (const ring of this.rings) if (ring.vring === vring) return ring;
    return undefined;
  }

  /**
   * virtio 1.2 §5.2.6.2: a driver that took neither FLUSH nor CONFIG_WCE, or that turned the cache off, expects each
   * write to be durable when it completes.
   */
  private applyCachePolicy(): void {
    const knowsFlush = this.features.has(FEATURE.BLK_FLUSH) || this.features.has(FEATURE.BLK_CONFIG_WCE);
    const writeback = this.features.has(FEATURE.BLK_CONFIG_WCE) ? this.config.writeback : knowsFlush;
    this.writeFlags = writeback ? 0 : IO_URING.rw.DSYNC;
  }
}
