import type { FakeBlkDisk, Framing, ZeroRange } from '@cairn/vhost-user/testing';
import type { Random } from './random.js';

/** What a back-end may be asked, beyond the classic framing. */
export interface FramingChoices {
  /** Offer indirect tables. */
  indirect: boolean;
  /** Direct descriptors in front of the indirect one (virtio 1.2 §2.7.5.3.2), which not every back-end takes. */
  mixed: boolean;
  /** Longest chain, in descriptors; virtio 1.2 §2.7.5.3.1 forbids more than the queue has entries. */
  maxPieces: number;
}

/** What to do how often, and what the disk holds at the beginning. */
export interface ExerciseOptions extends FramingChoices {
  requests: number;
  depth: number;
  model: Buffer;
  maxBytes?: number;
  /** Discard and zero ranges, too; what was discarded must read as zeroes. */
  zeroing?: boolean;
  /** Ask for the serial, too, and compare it. */
  serial?: string;
}

interface Range {
  start: number;
  end: number;
}

const SECTOR = 512;

/** The classic framing cuts a request into header, data and status. */
const CLASSIC_PIECES = 3;

const randomFraming = (
  random: Random,
  readable: number,
  writable: number,
  choices: FramingChoices,
): Framing => {
  const framing: { -readonly [key in keyof Framing]: Framing[key] } = {
    alignBytes: random.pick([1, 3, 512, 4096]),
  };
  let pieces = CLASSIC_PIECES;
  if (choices.maxPieces > CLASSIC_PIECES + 1 && random.chance(0.5)) {
    const most = Math.min(choices.maxPieces, 40);
    const forReadable = 1 + random.below(most - 1);
    const headerWhole = readable > 16 && forReadable > 1 && random.chance(0.5);
    framing.readable = headerWhole
      ? [16, ...random.cuts(readable - 16, forReadable - 1)]
      : random.cuts(readable, forReadable);
    framing.writable = random.cuts(writable, 1 + random.below(most - framing.readable.length));
    pieces = framing.readable.length + framing.writable.length;
  }
  if (choices.indirect && random.chance(0.5))
    framing.indirectAfter = choices.mixed && random.chance(0.5) ? random.below(pieces - 1) : 0;
  return framing;
};

/** One to three ranges in order, sectors apart or adjacent, within `within`. */
const randomRanges = (random: Random, within: Range): ZeroRange[] => {
  const ranges: ZeroRange[] = [];
  let at = within.start;
  for (let count = 1 + random.below(3); count > 0 && at < within.end; count--) {
    const left = (within.end - at) / SECTOR;
    const skip = random.below(left);
    const sectors = 1 + random.below(left - skip);
    const offsetBytes = at + skip * SECTOR;
    ranges.push({ offsetBytes, lengthBytes: sectors * SECTOR, unmap: random.chance(0.5) });
    at = offsetBytes + sectors * SECTOR;
  }
  return ranges;
};

/**
 * Drives a disk with random requests, many at a time, and compares every byte with a plain array.
 *
 * Requests in flight at the same time never overlap when one of them writes, so that the outcome is certain.
 * Returns the array: what the disk must hold.
 */
export const exerciseAgainstModel = async (
  disk: FakeBlkDisk,
  random: Random,
  options: ExerciseOptions,
): Promise<Buffer> => {
  const { model, requests, depth, maxBytes = 65_536, zeroing = false, serial } = options;
  const inFlight = new Map<Range, { writes: boolean; done: Promise<void> }>();
  const conflicting = (range: Range, writes: boolean) =>
    [...inFlight].find(([other, { writes: otherWrites }]) => {
      return (writes || otherWrites) && range.start < other.end && other.start < range.end;
    })?.[1].done;

  for (let i = 0; i < requests; i++) {
    const queue = random.below(disk.queues.length);
    if (random.chance(0.05)) {
      await disk.flush({ queue, framing: randomFraming(random, 16, 1, options) });
      continue;
    }
    if (serial !== undefined && random.chance(0.03)) {
      const got = await disk.getId();
      if (got !== serial) throw new Error(`request ${i}: the serial is ${got}`);
      continue;
    }
    const sectors = 1 + random.below(random.chance(0.7) ? 16 : maxBytes / SECTOR);
    const start = random.below(model.length / SECTOR - sectors + 1) * SECTOR;
    const range = { start, end: start + sectors * SECTOR };
    const lengthBytes = sectors * SECTOR;
    const zeroes = zeroing && random.chance(0.2);
    const writes = zeroes || random.chance(0.5);
    for (let wait = conflicting(range, writes); wait; wait = conflicting(range, writes)) await wait;
    while (inFlight.size >= depth) await Promise.race([...inFlight.values()].map(({ done }) => done));

    const bytes = writes && !zeroes ? random.bytes(lengthBytes) : undefined;
    const ranges = zeroes ? randomRanges(random, range) : [];
    const readable = 16 + (bytes ? lengthBytes : 16 * ranges.length);
    const framing = randomFraming(random, readable, writes ? 1 : lengthBytes + 1, options);
    const discard = random.chance(0.5);
    const work = async () => {
      if (zeroes) {
        for (const { offsetBytes, lengthBytes: size } of ranges)
          model.fill(0, offsetBytes, offsetBytes + size);
        if (discard)
          await disk.discard(
            ranges.map((one) => ({ ...one, unmap: false })),
            { queue, framing },
          );
        else await disk.writeZeroes(ranges, { queue, framing });
      } else if (bytes) {
        model.set(bytes, start);
        await disk.write(start, bytes, { queue, framing });
      } else {
        const got = Buffer.from(await disk.read(start, lengthBytes, { queue, framing }));
        if (!got.equals(model.subarray(range.start, range.end)))
          throw new Error(`request ${i}: wrong bytes at ${start}+${lengthBytes}`);
      }
    };
    const done = work().finally(() => inFlight.delete(range));
    done.catch(() => undefined);
    inFlight.set(range, { writes, done });
  }
  await Promise.all([...inFlight.values()].map(({ done }) => done));
  await disk.flush();
  return model;
};
