import { errnoName, IO_URING } from '@cairn/native';
import { ExtentMap, ExtentRuns } from '@cairn/storage';
import { BLK_STATUS, type BlkSegment } from '@cairn/virtio';
import { blockEnd, BlockOrder, blockStart } from './block-order.js';
import { isMisaligned } from './bouncing.js';
import { errnoError } from './failure-names.js';
import type { OpenLayer } from './layer-files.js';
import { LayerLookups } from './layer-lookups.js';
import { LayeredReads } from './layered-reads.js';
import { LayeredWrites } from './layered-writes.js';
import { LayeredZeroing } from './layered-zeroing.js';
import { SLOT } from './request-slots.js';
import type { ShardPort } from './shard-host.js';
import { OPERATION } from './shard-metrics.js';
import type { VolumeFile } from './volume-file.js';

// The path of a volume with parents. What one layer answers whole, and that is nearly everything, goes the way of a
// volume with one file, only with the layer's descriptor; the rest takes steps:
//
//   read      a slot for each piece of one layer; what no layer has is read from /dev/zero
//   write     the head; less than a block over a parent's goes there with the rest of the block (copy-up)
//   discard   zero map, fdatasync, hole; see layered-zeroing
//
// Changes that take steps are alone on their blocks (BlockOrder). The map hears of a change when it has completed, and
// forgets the range when it failed. All rings of such a volume run on one thread, as the map is for one.

const EAGAIN = 11;
const EINTR = 4;
const EIO = 5;

/** One entry for the kernel. */
export interface StepEntry {
  op: number;
  fd: number;
  offsetBytes: number;
  addressLow: number;
  addressHigh: number;
  length: number;
  flags: number;
}

/** What a layered volume's reads, writes and discards need of each other. */
export interface LayeredPort {
  readonly shard: ShardPort;
  readonly map: ExtentMap;
  readonly lookups: LayerLookups;
  readonly reads: LayeredReads;
  readonly head: OpenLayer;
  /** Descriptor for requests to the layer of a slot of the map. */
  fdOf(slot: number): number;
  /** Gives an entry to the kernel; `done` gets its result, or -errno. */
  step(slot: number, entry: StepEntry, done: (result: number) => void): void;
  /** Lets a request be alone on its blocks; `begin` is called when it is. */
  enter(slot: number, offsetBytes: number, lengthBytes: number, begin: () => void): void;
  leave(slot: number): void;
  /** Completes a request with an error. */
  fail(slot: number, errno: number): void;
}

/** Requests of one volume that has parents, on its reactor thread. */
export class LayeredIo implements LayeredPort {
  readonly map: ExtentMap;
  readonly lookups: LayerLookups;
  readonly reads: LayeredReads;
  private readonly writes: LayeredWrites;
  private readonly zeroing: LayeredZeroing;
  private readonly order: BlockOrder;
  private readonly begins = new Map<number, () => void>();
  private readonly runs = new ExtentRuns(2);
  /** What each slot's entry was, and who waits for it. */
  private readonly steps: ({ entry: StepEntry; done: (result: number) => void } | undefined)[] = [];
  private fds: number[] = [];

  constructor(
    readonly shard: ShardPort,
    file: VolumeFile,
  ) {
    this.map = new ExtentMap({ layers: file.layers!, sizeBytes: file.sizeBytes });
    this.fds = [file.zeroFd!, ...file.layers!.map(({ ioFd }) => ioFd)];
    this.lookups = new LayerLookups(this.map, (work) => shard.host.soon(work));
    this.reads = new LayeredReads(this);
    this.writes = new LayeredWrites(this);
    this.zeroing = new LayeredZeroing(this);
    this.order = new BlockOrder(
      (start, end) => this.isWritten(start, end),
      (slot) => this.begins.get(slot)!(),
    );
  }

  // ---- requests -------------------------------------------------------------------------------------------------

  /** Begins a read or a write whose scatter list is there. */
  start(slot: number, write: boolean): void {
    if (write) return this.startWrite(slot);
    const { slots } = this.shard.host;
    const { file } = this.shard;
    const offset = slots.offset[slot]!;
    const length = slots.remaining[slot]!;
    if (file.memoryMask !== 0 && isMisaligned(this.shard, slot)) return this.writes.bounceRead(slot);
    if (this.lookups.isKnown(offset, length) && this.map.resolve(offset, length, this.runs) === 1) {
      slots.fd[slot] = this.fdOf(this.runs.slots[0]!);
      return this.shard.submit(slot);
    }
    // A piece may begin within memory that was aligned only as a whole.
    if (file.memoryMask > file.offsetMask) return this.writes.bounceRead(slot);
    slots.kind[slot] = SLOT.STEP;
    const { segments } = slots;
    const scatter = { list: slots.list(slot).subarray(0, segments[slot]! * 4), first: 0 };
    return this.reads.read(scatter, offset, length, (errno) => {
      if (errno !== 0) this.fail(slot, errno);
      else this.shard.finish(slot, BLK_STATUS.OK);
    });
  }

  /** Begins a discard or a write of zeroes. */
  zero(slot: number, ranges: BlkSegment[]): void {
    this.zeroing.start(slot, ranges);
  }

  /** An entry of `step` has completed. */
  stepped(slot: number, result: number): void {
    const { entry, done } = this.steps[slot]!;
    this.steps[slot] = undefined;
    if (result === -EAGAIN || result === -EINTR) return this.step(slot, entry, done);
    // See DeviceShard.failedInKernel: what a flush did not write may be gone.
    const isFlush = entry.op === IO_URING.op.FSYNC;
    const isSynced = result === -EIO && entry.op === IO_URING.op.WRITE && entry.flags === IO_URING.rw.DSYNC;
    if ((isFlush && result < 0) || isSynced) this.shard.shared.fail(-result);
    return done(result);
  }

  /** A write of one step is in the head. */
  wrote(slot: number): void {
    const { slots } = this.shard.host;
    const length = slots.dataBytes[slot]!;
    this.map.markHead(slots.offset[slot]! + slots.remaining[slot]! - length, length);
  }

  /** A request leaves its slot. */
  ended(slot: number, status: number): void {
    const { slots } = this.shard.host;
    // It is no write that is under way any more.
    slots.kind[slot] = SLOT.STEP;
    const length = slots.dataBytes[slot]!;
    const operation = slots.operation[slot]!;
    if (operation !== OPERATION.write && operation !== OPERATION.discard) return;
    if (operation === OPERATION.write && status !== BLK_STATUS.OK && length > 0) {
      this.map.forget(slots.offset[slot]! + slots.remaining[slot]! - length, length);
    }
    this.leave(slot);
  }

  // ---- the chain ------------------------------------------------------------------------------------------------

  /**
   * Goes over to `file`, which reads the same. When nothing is in flight, it may have other layers, and a head that is
   * empty; else it has only grown. But for a new head on top everything is looked up anew: which layer has a block may
   * have changed.
   */
  goOver(file: VolumeFile): void {
    const layers = file.layers!;
    const before = this.fds.slice(1);
    const keeps = before.every((fd, index) => fd === layers[index]?.ioFd);
    if (keeps && layers.length === before.length + 1) this.map.pushHead(layers.at(-1)!);
    else this.map.replaceLayers(layers);
    if (file.sizeBytes > this.map.sizeBytes) this.map.grow(file.sizeBytes, layers.at(-1)!);
    this.fds = [file.zeroFd!, ...layers.map(({ ioFd }) => ioFd)];
  }

  // ---- LayeredPort ----------------------------------------------------------------------------------------------

  get head(): OpenLayer {
    return this.shard.file.layers!.at(-1)!;
  }

  fdOf(slot: number): number {
    return this.fds[slot]!;
  }

  step(slot: number, entry: StepEntry, done: (result: number) => void): void {
    const { slots } = this.shard.host;
    slots.kind[slot] = SLOT.STEP;
    slots.fd[slot] = entry.fd;
    this.steps[slot] = { entry, done };
    const { op, offsetBytes, addressLow, addressHigh, length, flags } = entry;
    this.shard.submitEntry(slot, op, offsetBytes, addressLow, addressHigh, length, flags);
  }

  enter(slot: number, offsetBytes: number, lengthBytes: number, begin: () => void): void {
    this.shard.host.slots.kind[slot] = SLOT.STEP;
    this.begins.set(slot, begin);
    this.order.enter(slot, blockStart(offsetBytes), blockEnd(offsetBytes + lengthBytes));
  }

  leave(slot: number): void {
    if (!this.order.busy) return;
    this.begins.delete(slot);
    const { slots } = this.shard.host;
    const to = slots.offset[slot]! + slots.remaining[slot]!;
    this.order.leave(slot, blockStart(to - slots.dataBytes[slot]!), blockEnd(to));
  }

  fail(slot: number, errno: number): void {
    this.shard.fault(slot, errnoError(errnoName(errno)));
  }

  // ---- steps ----------------------------------------------------------------------------------------------------

  private startWrite(slot: number): void {
    const { slots } = this.shard.host;
    const offset = slots.offset[slot]!;
    const length = slots.remaining[slot]!;
    const meets = this.order.busy && this.order.meets(blockStart(offset), blockEnd(offset + length));
    if (meets || this.writes.takesSteps(slot)) {
      return this.enter(slot, offset, length, () => this.writes.begin(slot));
    }
    slots.fd[slot] = this.fdOf(this.map.headSlot);
    return this.shard.submit(slot);
  }

  /** Is a write under way there that takes one step and was not entered? Its place is found in its slot. */
  private isWritten(start: number, end: number): boolean {
    const { slots } = this.shard.host;
    for (let slot = 0; slot < slots.count; slot += 1) {
      if (slots.kind[slot] !== SLOT.WRITE || !this.shard.owns(slot) || this.begins.has(slot)) continue;
      const to = slots.offset[slot]! + slots.remaining[slot]!;
      if (blockStart(to - slots.dataBytes[slot]!) < end && start < blockEnd(to)) return true;
    }
    return false;
  }
}
