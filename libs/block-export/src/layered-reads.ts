import { IO_URING } from '@cairn/native';
import { CHUNK_BYTES, ExtentRuns } from '@cairn/storage';
import type { LayeredPort } from './layered-io.js';
import { RESERVED_SLOTS } from './shard-host.js';

/** Pieces of one read that are in the kernel at once, at most. */
const MAX_PIECES = 32;
const MAX_PIECE_BYTES = 4 * 1024 * 1024;
const EIO = 5;
const ENOMEM = 12;

/** Memory that a read fills: scatter entries of four words each (see RequestSlots). */
export interface Scatter {
  list: Uint32Array;
  /** The first entry. */
  first: number;
}

/** A read that is under way, in pieces of one layer each. */
interface SplitRead {
  list: Uint32Array;
  /** Word of the entry that is next, and bytes of it that are used up. */
  word: number;
  within: number;
  at: number;
  end: number;
  inKernel: number;
  /** Does somebody call `go` already? */
  waits: boolean;
  errno: number;
  done: (errno: number) => void;
}

/** Reads that more than one layer answers: each piece gets a slot of its own, many at a time. */
export class LayeredReads {
  private readonly run = new ExtentRuns(1);

  constructor(private readonly io: LayeredPort) {}

  /** Fills memory from a range of the volume; `done` gets 0 or the first errno when nothing is in the kernel any more. */
  read(
    { list, first }: Scatter,
    offsetBytes: number,
    lengthBytes: number,
    done: (errno: number) => void,
  ): void {
    this.go({
      list,
      word: first * 4,
      within: 0,
      at: offsetBytes,
      end: offsetBytes + lengthBytes,
      inKernel: 0,
      waits: false,
      errno: 0,
      done,
    });
  }

  private go(read: SplitRead): void {
    const { io } = this;
    const { slots } = io.shard.host;
    while (read.at < read.end && read.errno === 0) {
      if (read.waits || read.inKernel >= MAX_PIECES) return;
      if (slots.available <= RESERVED_SLOTS && read.inKernel > 0) return;
      const isKnown = io.lookups.isKnown(read.at, 1);
      if (!isKnown || slots.available === 0) {
        read.waits = true;
        const goOn = (errno: number): void => {
          read.waits = false;
          read.errno ||= errno;
          this.go(read);
        };
        if (isKnown) io.shard.host.withSlot(() => goOn(0));
        else io.lookups.whenKnown(read.at, goOn);
        return;
      }
      this.startPiece(read);
    }
    if (read.inKernel === 0 && !read.waits) read.done(read.errno);
  }

  private startPiece(read: SplitRead): void {
    const { io, run } = this;
    const { slots } = io.shard.host;
    const stop = Math.min(read.end, (Math.floor(read.at / CHUNK_BYTES) + 1) * CHUNK_BYTES);
    io.map.resolve(read.at, stop - read.at, run);
    const length = Math.min(run.lengths[0]!, MAX_PIECE_BYTES);
    const slot = io.shard.takeSlot();
    const entries = entriesOf(read, length);
    const list = slots.listFor(slot, entries);
    if (!list) {
      read.errno = ENOMEM;
      io.shard.releaseSlot(slot);
      return;
    }
    cut(read, length, list);
    slots.fd[slot] = io.fdOf(run.slots[0]!);
    slots.offset[slot] = read.at;
    slots.remaining[slot] = length;
    slots.first[slot] = 0;
    slots.segments[slot] = entries;
    read.at += length;
    read.inKernel += 1;
    this.submit(slot, read);
  }

  private submit(slot: number, read: SplitRead): void {
    const { io } = this;
    const { slots } = io.shard.host;
    const entry = {
      op: IO_URING.op.READV,
      fd: slots.fd[slot]!,
      offsetBytes: slots.offset[slot]!,
      addressLow: slots.listLow(slot),
      addressHigh: slots.listHigh(slot),
      length: slots.segments[slot]!,
      flags: 0,
    };
    io.step(slot, entry, (result) => {
      if (result > 0) {
        slots.advance(slot, result);
        if (slots.remaining[slot]! > 0) return this.submit(slot, read);
      } else {
        read.errno ||= result === 0 ? EIO : -result;
      }
      io.shard.releaseSlot(slot);
      read.inKernel -= 1;
      return this.go(read);
    });
  }
}

/** How many scatter entries the next `length` bytes of a read touch. */
const entriesOf = ({ list, word, within }: SplitRead, length: number): number => {
  let count = 0;
  for (let left = length + within, at = word; left > 0; at += 4) {
    left -= list[at + 2]!;
    count += 1;
  }
  return count;
};

/** Moves the next `length` bytes of a read's memory into a list of their own. */
const cut = (read: SplitRead, length: number, into: Uint32Array): void => {
  const { list } = read;
  for (let left = length, at = 0; left > 0; at += 4) {
    const { word, within } = read;
    const part = Math.min(list[word + 2]! - within, left);
    const low = list[word]! + within;
    into[at] = low;
    into[at + 1] = list[word + 1]! + (low > 0xffff_ffff ? 1 : 0);
    into[at + 2] = part;
    into[at + 3] = 0;
    left -= part;
    read.within += part;
    if (read.within < list[word + 2]!) continue;
    read.word += 4;
    read.within = 0;
  }
};
