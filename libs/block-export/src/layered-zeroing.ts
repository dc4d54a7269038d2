import { IO_URING } from '@cairn/native';
import { BLOCK_BYTES, CHUNK_BYTES, ChunkWalk, ExtentRuns, ZEROED, zeroMapPosition } from '@cairn/storage';
import type { BlkSegment } from '@cairn/virtio';
import { BounceBuffer } from './bounce.js';
import { blockEnd, blockStart } from './block-order.js';
import type { LayeredPort, StepEntry } from './layered-io.js';
import { errnoOf } from './layer-lookups.js';
import type { OpenLayer } from './layer-files.js';

// One range of a discard or a write of zeroes, alone on its blocks:
//
//   edges    less than a block: zeroes in the block as it is read now, in the head
//   blocks   by chunks: zero-map bytes in the head where a layer below has data
//   hole     where the head has data; before it an fdatasync when zero-map bytes were written, or a power cut could keep
//            the hole and lose the bytes, and what the parent holds would come back
//
// Ranges are never zeroed by ZERO_RANGE, whose unwritten extents some file systems show as holes.

const PUNCH_HOLE = 3; // with KEEP_SIZE
const EIO = 5;
const U32 = 2 ** 32;
const EXTENTS_A_ROUND = 128;

/** Where the zero-map bytes of a chunk, and one block, lie in a request's buffer. */
const BYTES_AT = 0;
const BLOCK_AT = BLOCK_BYTES;

/** A request under way. */
interface Zero {
  slot: number;
  ranges: BlkSegment[];
  buffer: BounceBuffer;
  /** Of the range that is under way: zero-map bytes were written; the head has data. */
  said: boolean;
  headHas: boolean;
}

type Done = (errno: number) => void;

/** Discards and writes of zeroes on a volume that has parents. */
export class LayeredZeroing {
  private readonly runs = new ExtentRuns(CHUNK_BYTES / BLOCK_BYTES);
  private readonly walk = new ChunkWalk(CHUNK_BYTES);
  /** Requests that wait for the walk, which is one at a time. */
  private readonly walkers: (() => void)[] = [];

  constructor(private readonly io: LayeredPort) {}

  start(slot: number, ranges: BlkSegment[]): void {
    const buffer = BounceBuffer.make(BLOCK_BYTES - 1);
    if (!buffer) return this.io.shard.fault(slot, 'no-memory');
    return this.next({ slot, ranges, buffer, said: false, headHas: false });
  }

  private next(zero: Zero): void {
    const { io } = this;
    const { slot, ranges, buffer } = zero;
    const range = ranges.shift();
    if (!range) {
      buffer.close();
      return io.shard.written(slot);
    }
    const { offsetBytes, lengthBytes } = range;
    zero.said = false;
    zero.headHas = false;
    return io.enter(slot, offsetBytes, lengthBytes, () =>
      this.zeroRange(zero, offsetBytes, offsetBytes + lengthBytes, (errno) => {
        if (errno === 0) {
          io.leave(slot);
          return this.next(zero);
        }
        io.map.forget(offsetBytes, lengthBytes);
        buffer.close();
        return io.fail(slot, errno);
      }),
    );
  }

  private zeroRange(zero: Zero, from: number, to: number, done: Done): void {
    const first = Math.min(blockEnd(from), to);
    const last = Math.max(blockStart(to), first);
    const blocks: Done = (errno) => {
      if (errno !== 0) return done(errno);
      return this.say(zero, first, last, (sayErrno) => {
        if (sayErrno !== 0) return done(sayErrno);
        return this.punch(zero, first, last, done);
      });
    };
    const tail: Done = (errno) => {
      if (errno !== 0 || last === to) return blocks(errno);
      return this.zeroEdge(zero, last, to, blocks);
    };
    if (first === from) return tail(0);
    return this.zeroEdge(zero, from, first, tail);
  }

  /** Zeroes a part of one block, which is whole in the head afterwards; nothing is done where nobody has the block. */
  private zeroEdge({ slot, buffer }: Zero, from: number, to: number, done: Done): void {
    const { io } = this;
    const at = blockStart(from);
    io.lookups.whenKnown(at, (errno) => {
      if (errno !== 0) return done(errno);
      if (io.lookups.isKnown(at, 1) && io.map.slotAt(at) === 0) return done(0);
      const low = buffer.addressLow + BLOCK_AT;
      const scatter = { list: new Uint32Array([low, buffer.addressHigh, BLOCK_BYTES, 0]), first: 0 };
      return io.reads.read(scatter, at, BLOCK_BYTES, (readErrno) => {
        if (readErrno !== 0) return done(readErrno);
        buffer.bytes.fill(0, BLOCK_AT + from - at, BLOCK_AT + to - at);
        return this.write(slot, this.head.ioFd, at, buffer, [BLOCK_AT, BLOCK_BYTES], (writeErrno) => {
          if (writeErrno === 0) io.map.markHead(at, BLOCK_BYTES);
          done(writeErrno);
        });
      });
    });
  }

  /** Goes through the chunks of whole blocks: notes where the head has data, and sets the zero map where others have. */
  private say(zero: Zero, from: number, to: number, done: Done): void {
    if (from >= to) return done(0);
    const stop = Math.min(to, (Math.floor(from / CHUNK_BYTES) + 1) * CHUNK_BYTES);
    const { io, runs } = this;
    const goOn: Done = (errno) => (errno === 0 ? this.say(zero, stop, to, done) : done(errno));
    return io.lookups.whenKnown(from, (errno) => {
      if (errno !== 0) return done(errno);
      io.map.resolve(from, stop - from, runs);
      zero.headHas ||= runs.slots.subarray(0, runs.count).includes(io.map.headSlot);
      return this.walkBelow(from, stop, (walkErrno) => {
        if (walkErrno !== 0) return done(walkErrno);
        return this.writeMap(zero, from, stop, goOn);
      });
    });
  }

  /** Finds out what the layers below have; then it is this request's turn to look at the answers, at once. */
  private walkBelow(from: number, to: number, done: Done): void {
    const { io, walk } = this;
    const finish: Done = (errno) => {
      done(errno);
      this.walkers.shift();
      this.walkers[0]?.();
    };
    const round = (): void => {
      try {
        if (walk.step(EXTENTS_A_ROUND)) return finish(0);
      } catch (error) {
        return finish(errnoOf(error));
      }
      return io.shard.host.soon(round);
    };
    const begin = (): void => {
      io.map.beginBelow(walk, from, to - from);
      // Never at once: a discard of many chunks would hold the thread.
      io.shard.host.soon(round);
    };
    this.walkers.push(begin);
    if (this.walkers.length === 1) begin();
  }

  /** Writes the zero map of a part of a chunk, from the walk's answers, unless nobody below has any of it. */
  private writeMap(zero: Zero, from: number, to: number, done: Done): void {
    const { buffer } = zero;
    const { zeroMapOffsetBytes } = this.head;
    const blocks = (to - from) / BLOCK_BYTES;
    let first = -1;
    let last = -1;
    for (let i = 0; i < blocks; i += 1) {
      const isBacked = this.walk.answers[i] !== 0;
      buffer.bytes[BYTES_AT + i] = isBacked ? ZEROED : 0;
      if (!isBacked) continue;
      if (first < 0) first = i;
      last = i;
    }
    if (first < 0) return done(0);
    if (zeroMapOffsetBytes === undefined) return done(EIO);
    zero.said = true;
    const position = zeroMapPosition(zeroMapOffsetBytes, from + first * BLOCK_BYTES);
    return this.write(
      zero.slot,
      this.head.fd,
      position,
      buffer,
      [BYTES_AT + first, last + 1 - first],
      (errno) => done(errno),
    );
  }

  private punch(zero: Zero, from: number, to: number, done: Done): void {
    const { io } = this;
    const { slot } = zero;
    if (from >= to) return done(0);
    const over: Done = (errno) => {
      if (errno === 0) io.map.markZeroes(from, to - from);
      done(errno);
    };
    if (!zero.headHas) return over(0);
    const length = to - from;
    // struct io_uring_sqe: `addr` carries the length, `len` the mode.
    const hole: StepEntry = {
      op: IO_URING.op.FALLOCATE,
      fd: this.head.ioFd,
      offsetBytes: from,
      addressLow: length >>> 0,
      addressHigh: Math.floor(length / U32),
      length: PUNCH_HOLE,
      flags: 0,
    };
    const makeHole = (): void => {
      io.shard.host.slots.durable[slot] = 0;
      io.step(slot, hole, (result) => over(result < 0 ? -result : 0));
    };
    if (!zero.said) return makeHole();
    const sync: StepEntry = {
      op: IO_URING.op.FSYNC,
      fd: this.head.ioFd,
      offsetBytes: 0,
      addressLow: 0,
      addressHigh: 0,
      length: 0,
      flags: IO_URING.fsync.DATASYNC,
    };
    return io.step(slot, sync, (result) => (result < 0 ? done(-result) : makeHole()));
  }

  /** Writes a part of the buffer, `[start, length]`, to a file. */
  private write(
    slot: number,
    fd: number,
    offsetBytes: number,
    buffer: BounceBuffer,
    [start, length]: readonly [number, number],
    done: Done,
  ): void {
    this.io.shard.host.slots.durable[slot] = 0;
    const entry: StepEntry = {
      op: IO_URING.op.WRITE,
      fd,
      offsetBytes,
      addressLow: buffer.addressLow + start,
      addressHigh: buffer.addressHigh,
      length,
      flags: 0,
    };
    this.io.step(slot, entry, (result) => {
      if (result < 0) return done(-result);
      if (result === 0) return done(EIO);
      if (result === length) return done(0);
      return this.write(slot, fd, offsetBytes + result, buffer, [start + result, length - result], done);
    });
  }

  private get head(): OpenLayer {
    return this.io.head;
  }
}
