import { IO_URING } from '@cairn/native';
import { BLOCK_BYTES } from '@cairn/storage';
import { BLK_STATUS } from '@cairn/virtio';
import { BounceBuffer } from './bounce.js';
import { isMisaligned } from './bouncing.js';
import type { LayeredPort } from './layered-io.js';
import { SLOT } from './request-slots.js';

const EIO = 5;

/** Memory of our own, as whole blocks, for requests that the layers' files cannot take as they are. */
const makeBuffer = (): BounceBuffer | undefined => BounceBuffer.make(BLOCK_BYTES - 1);

/** Writes to a head that has not the whole block, and requests whose memory O_DIRECT cannot take. */
export class LayeredWrites {
  constructor(private readonly io: LayeredPort) {}

  /** May this write need more than one step? Most often that is plain to see: it has whole blocks. */
  takesSteps(slot: number): boolean {
    const { shard, map, lookups } = this.io;
    const { slots } = shard.host;
    if (shard.file.memoryMask !== 0 && isMisaligned(shard, slot)) return true;
    const offset = slots.offset[slot]!;
    const end = offset + slots.remaining[slot]!;
    const isWhole = (at: number): boolean => {
      if (at % BLOCK_BYTES === 0) return true;
      if (!lookups.isKnown(at, 1)) return false;
      const layer = map.slotAt(at);
      // Where nobody has the block, the file system fills up what is not written with zeroes, as it must read.
      return layer === 0 || layer === map.headSlot;
    };
    return !isWhole(offset) || !isWhole(end);
  }

  /** Begins a write that is alone on its blocks now. */
  begin(slot: number): void {
    const { io } = this;
    const { slots } = io.shard.host;
    const offset = slots.offset[slot]!;
    const last = offset + slots.remaining[slot]! - 1;
    io.lookups.whenKnown(offset, (errno) => {
      if (errno !== 0) return io.fail(slot, errno);
      return io.lookups.whenKnown(last, (lastErrno) => {
        if (lastErrno !== 0) return io.fail(slot, lastErrno);
        // What it waited for may have brought the block into the head.
        if (this.takesSteps(slot)) return this.copyUp(slot);
        slots.kind[slot] = SLOT.WRITE;
        slots.fd[slot] = io.fdOf(io.map.headSlot);
        return io.shard.submit(slot);
      });
    });
  }

  /** Reads whole blocks through the layers, step by step, and copies from them what was asked for. */
  bounceRead(slot: number): void {
    const { io } = this;
    const { slots } = io.shard.host;
    const buffer = makeBuffer();
    if (!buffer) return io.shard.fault(slot, 'no-memory');
    slots.kind[slot] = SLOT.STEP;
    const next = (): void => {
      if (slots.remaining[slot] === 0) {
        buffer.close();
        return io.shard.finish(slot, BLK_STATUS.OK);
      }
      buffer.frame(slots.offset[slot]!, slots.remaining[slot]!);
      return this.fill(buffer, 0, buffer.length, (errno) => {
        if (errno !== 0) {
          buffer.close();
          return io.fail(slot, errno);
        }
        buffer.copy(slots, slot, 'to-guest');
        slots.advance(slot, buffer.count);
        return next();
      });
    };
    return next();
  }

  /** Writes whole blocks, step by step; what the guest leaves of the first and the last is read before. */
  private copyUp(slot: number): void {
    const { io } = this;
    const { slots } = io.shard.host;
    const buffer = makeBuffer();
    if (!buffer) return io.shard.fault(slot, 'no-memory');
    const end = (errno: number): void => {
      buffer.close();
      if (errno !== 0) io.fail(slot, errno);
      else io.shard.written(slot);
    };
    const next = (): void => {
      if (slots.remaining[slot] === 0) return end(0);
      buffer.frame(slots.offset[slot]!, slots.remaining[slot]!);
      return this.fillEdges(buffer, (readErrno) => {
        if (readErrno !== 0) return end(readErrno);
        buffer.copy(slots, slot, 'from-guest');
        return this.writeHead(slot, buffer, 0, (errno) => {
          if (errno !== 0) return end(errno);
          io.map.markHead(buffer.start, buffer.length);
          slots.advance(slot, buffer.count);
          return next();
        });
      });
    };
    return next();
  }

  private fillEdges(buffer: BounceBuffer, done: (errno: number) => void): void {
    const lastAt = buffer.length - BLOCK_BYTES;
    const fillLast = (errno: number): void => {
      const isPartial = (buffer.skip + buffer.count) % BLOCK_BYTES !== 0;
      const isRead = buffer.skip !== 0 && lastAt === 0;
      if (errno !== 0 || !isPartial || isRead) return done(errno);
      return this.fill(buffer, lastAt, BLOCK_BYTES, done);
    };
    if (buffer.skip === 0) return fillLast(0);
    return this.fill(buffer, 0, BLOCK_BYTES, fillLast);
  }

  /** Fills a part of the buffer from the part of the volume that it stands for. */
  private fill(buffer: BounceBuffer, at: number, lengthBytes: number, done: (errno: number) => void): void {
    const list = new Uint32Array([buffer.addressLow + at, buffer.addressHigh, lengthBytes, 0]);
    this.io.reads.read({ list, first: 0 }, buffer.start + at, lengthBytes, done);
  }

  /** Writes the buffer, from `doneBytes` of it on, to the head. A head has a block whole or not at all: it is retried. */
  private writeHead(
    slot: number,
    buffer: BounceBuffer,
    doneBytes: number,
    done: (errno: number) => void,
  ): void {
    const { io } = this;
    const entry = {
      op: IO_URING.op.WRITE,
      fd: io.fdOf(io.map.headSlot),
      offsetBytes: buffer.start + doneBytes,
      addressLow: buffer.addressLow + doneBytes,
      addressHigh: buffer.addressHigh,
      length: buffer.length - doneBytes,
      flags: io.shard.writeFlags(slot),
    };
    io.step(slot, entry, (result) => {
      if (result < 0) return done(-result);
      if (result === 0) return done(EIO);
      if (doneBytes + result < buffer.length) return this.writeHead(slot, buffer, doneBytes + result, done);
      return done(0);
    });
  }
}
