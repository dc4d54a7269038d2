import type { BlkRequest, Framing } from '@cairn/vhost-user/testing';
import { BLK_STATUS, BLK_TYPE } from '@cairn/virtio/testing';
import type { Random } from '../support/random.js';

// Requests as a guest may make them, each with what must come of it: data, status byte, and under which name a refusal
// is counted. All but a few are ones that an honest driver makes.

const SECTOR = 512;
const HEADER_BYTES = 16;
const ID_BYTES = 20;
const MAX_SECTORS = 96;

/** What the device announces (virtio 1.2 §5.2.4), and refuses to exceed. */
const MAX_SEGMENTS = 32;

/** Bytes of the disk, from `start` up to `end`. */
export interface Range {
  start: number;
  end: number;
}

/** A request and its outcome. */
export interface Plan {
  request: BlkRequest;
  /** What it reads or writes; undefined = nothing of the disk. */
  range?: Range;
  writes: boolean;
  status: number;
  /** Name under which a refusal is counted. */
  error?: string;
  /** Bytes that must come back; undefined = none of interest. */
  expected?: () => Buffer;
  /** What it does to the disk once it has completed. */
  apply?: () => void;
}

/** What a plan is made for. */
export interface PlanContext {
  /** The disk as it must be; ranges are taken from its first `reachBytes`. */
  disk: { bytes: Buffer };
  reachBytes: number;
  serial: string;
}

const refused = (request: BlkRequest, status: number, error: string): Plan => ({
  request,
  writes: false,
  status,
  error,
});

const rangeOf = (random: Random, { reachBytes }: PlanContext): Range => {
  const sectors = 1 + random.below(random.chance(0.8) ? 12 : MAX_SECTORS);
  const start = random.below(reachBytes / SECTOR - sectors + 1) * SECTOR;
  return { start, end: start + sectors * SECTOR };
};

const read = (random: Random, context: PlanContext): Plan => {
  const range = rangeOf(random, context);
  return {
    request: { type: BLK_TYPE.IN, sector: range.start / SECTOR, inBytes: range.end - range.start },
    range,
    writes: false,
    status: BLK_STATUS.OK,
    expected: () => context.disk.bytes.subarray(range.start, range.end),
  };
};

const write = (random: Random, context: PlanContext): Plan => {
  const range = rangeOf(random, context);
  const out = random.bytes(range.end - range.start);
  return {
    request: { type: BLK_TYPE.OUT, sector: range.start / SECTOR, out },
    range,
    writes: true,
    status: BLK_STATUS.OK,
    apply: () => context.disk.bytes.set(out, range.start),
  };
};

interface Segment {
  sector: number | bigint;
  sectors: number;
  flags: number;
}

const segmentBytes = (segments: readonly Segment[]): Buffer => {
  const out = Buffer.alloc(16 * segments.length);
  segments.forEach(({ sector, sectors, flags }, index) => {
    out.writeBigUInt64LE(BigInt.asUintN(64, BigInt(sector)), 16 * index);
    out.writeUInt32LE(sectors, 16 * index + 8);
    out.writeUInt32LE(flags, 16 * index + 12);
  });
  return out;
};

/** Discard or write zeroes, in one to three parts of a range. */
const zero = (random: Random, context: PlanContext): Plan => {
  const range = rangeOf(random, context);
  const type = random.pick([BLK_TYPE.DISCARD, BLK_TYPE.WRITE_ZEROES]);
  const segments: Segment[] = [];
  let at = range.start / SECTOR;
  for (let count = 1 + random.below(3); count > 0 && at < range.end / SECTOR; count -= 1) {
    const left = range.end / SECTOR - at;
    const skip = random.below(left);
    const sectors = random.chance(0.1) ? 0 : 1 + random.below(left - skip);
    const unmap = type === BLK_TYPE.WRITE_ZEROES && random.chance(0.5);
    segments.push({ sector: at + skip, sectors, flags: unmap ? 1 : 0 });
    at += skip + sectors;
  }
  return {
    request: { type, out: segmentBytes(segments) },
    range,
    writes: true,
    status: BLK_STATUS.OK,
    apply: () => {
      for (const { sector, sectors } of segments) {
        const start = Number(sector) * SECTOR;
        context.disk.bytes.fill(0, start, start + sectors * SECTOR);
      }
    },
  };
};

const flush = (): Plan => ({ request: { type: BLK_TYPE.FLUSH }, writes: false, status: BLK_STATUS.OK });

const identify = (random: Random, { serial }: PlanContext): Plan => {
  const inBytes = random.pick([0, 1, 19, 20, 21, 512]);
  const id = Buffer.alloc(ID_BYTES);
  id.write(serial);
  return {
    request: { type: BLK_TYPE.GET_ID, inBytes },
    writes: false,
    status: BLK_STATUS.OK,
    expected: () => id.subarray(0, Math.min(inBytes, ID_BYTES)),
  };
};

const empty = (random: Random): Plan => ({
  request: { type: random.pick([BLK_TYPE.IN, BLK_TYPE.OUT]), sector: random.below(100) },
  writes: false,
  status: BLK_STATUS.OK,
});

const unknownType = (random: Random): Plan => {
  const type = random.pick([
    2,
    3,
    5,
    6,
    7,
    9,
    10,
    12,
    BLK_TYPE.SECURE_ERASE,
    15,
    100,
    0x8000_0000,
    0xffff_ffff,
  ]);
  const more = random.chance(0.5) ? { out: random.bytes(32) } : { inBytes: 64 };
  return refused({ type, ...more }, BLK_STATUS.UNSUPP, 'unsupported');
};

const pastTheEnd = (random: Random, { disk }: PlanContext): Plan => {
  const sectors = 1 + random.below(16);
  const end = disk.bytes.length / SECTOR;
  const sector = random.pick<number | bigint>([
    end,
    end - random.below(sectors),
    end + random.below(1_000_000),
    2 ** 32 - 1,
    2n ** 53n - 1n,
    2n ** 55n - 1n,
    2n ** 63n,
    2n ** 64n - 1n,
  ]);
  const request: BlkRequest = random.chance(0.5)
    ? { type: BLK_TYPE.IN, sector, inBytes: sectors * SECTOR }
    : { type: BLK_TYPE.OUT, sector, out: random.bytes(sectors * SECTOR) };
  return refused(request, BLK_STATUS.IOERR, 'out-of-range');
};

const oddLength = (random: Random): Plan => {
  const bytes = random.below(16) * SECTOR + 1 + random.below(SECTOR - 1);
  const request: BlkRequest = random.chance(0.5)
    ? { type: BLK_TYPE.IN, inBytes: bytes }
    : { type: BLK_TYPE.OUT, out: random.bytes(bytes) };
  return refused(request, BLK_STATUS.IOERR, 'length-not-in-sectors');
};

const badSegments = (random: Random, { disk }: PlanContext): Plan => {
  const type = random.pick([BLK_TYPE.DISCARD, BLK_TYPE.WRITE_ZEROES]);
  const good: Segment = { sector: 0, sectors: 1, flags: 0 };
  const end = disk.bytes.length / SECTOR;
  const [out, status] = random.pick<[out: Buffer, status: number]>([
    [segmentBytes([good, { ...good, flags: 2 ** (1 + random.below(31)) }]), BLK_STATUS.UNSUPP],
    [segmentBytes([good, { ...good, sector: end }]), BLK_STATUS.IOERR],
    [segmentBytes([good, { ...good, sector: end - 1, sectors: 2 }]), BLK_STATUS.IOERR],
    [segmentBytes([{ ...good, sectors: 0xffff_ffff }]), BLK_STATUS.IOERR],
    [segmentBytes([{ ...good, sector: 2n ** 64n - 1n }]), BLK_STATUS.IOERR],
    [segmentBytes(Array.from({ length: MAX_SEGMENTS + 1 }, () => good)), BLK_STATUS.IOERR],
    [segmentBytes([good, good]).subarray(0, 17 + random.below(15)), BLK_STATUS.IOERR],
    [Buffer.alloc(0), BLK_STATUS.IOERR],
    [Buffer.alloc(4096), BLK_STATUS.IOERR],
  ]);
  return refused({ type, out }, status, 'segments-invalid');
};

const kinds: readonly [weight: number, make: (random: Random, context: PlanContext) => Plan][] = [
  [34, read],
  [34, write],
  [12, zero],
  [4, flush],
  [3, identify],
  [2, empty],
  [3, unknownType],
  [3, pastTheEnd],
  [2, oddLength],
  [3, badSegments],
];
const ALL_WEIGHTS = kinds.reduce((sum, [weight]) => sum + weight, 0);

/** A request of any kind. */
export const randomPlan = (random: Random, context: PlanContext): Plan => {
  let at = random.below(ALL_WEIGHTS);
  for (const [weight, make] of kinds) {
    if (at < weight) return make(random, context);
    at -= weight;
  }
  return flush();
};

/** How a ring lets requests be framed. */
export interface FramingLimits {
  packed: boolean;
  indirect: boolean;
  /** Longest chain of direct descriptors. */
  direct: number;
}

const LONGEST_TABLE = 48;
const ones = (count: number): number[] => Array.from({ length: count }, () => 1);

/** Cuts `total` bytes into at most `most` pieces: whole, all but one piece of single bytes, or anyhow. */
const cut = (random: Random, total: number, most: number, whole: readonly number[]): readonly number[] => {
  const way = random.below(4);
  if (most < 2 || total < 2) return [];
  if (way === 0) return ones(Math.min(total - 1, most - 1));
  if (way === 1) return random.cuts(total, most);
  if (way === 2) return [total];
  return whole;
};

/** Random framing: headers cut anywhere, one-byte descriptors, header and data in one, direct or in a table. */
export const randomFraming = (random: Random, request: BlkRequest, limits: FramingLimits): Framing => {
  const readable = HEADER_BYTES + (request.out?.length ?? 0);
  const writable = (request.inBytes ?? 0) + 1;
  const inTable = limits.indirect && random.chance(0.5);
  const most = inTable ? LONGEST_TABLE : limits.direct;
  const forReadable = 1 + random.below(most - 1);
  const alignBytes = random.pick([1, 2, 3, 4, 512, 4096]);
  if (random.chance(0.3))
    return { alignBytes, ...(inTable ? { indirectAfter: limits.packed ? 0 : random.below(2) } : {}) };
  const framing = {
    alignBytes,
    readable: cut(random, readable, forReadable, forReadable > 1 ? [HEADER_BYTES] : [readable]),
    writable: cut(random, writable, most - forReadable, most - forReadable > 1 ? [writable - 1] : [writable]),
  };
  if (!inTable) return framing;
  return { ...framing, indirectAfter: limits.packed ? 0 : random.below(Math.min(3, limits.direct - 1)) };
};
