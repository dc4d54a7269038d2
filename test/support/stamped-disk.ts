import type { FakeBlkDisk } from '@cairn/vhost-user/testing';
import type { Random } from './random.js';

const SECTOR = 512;

/** What a sector may hold at some moment of a stretch of time: its stamp at the beginning, and what was written meanwhile. */
export interface Moment {
  before: Uint32Array;
  meanwhile: Map<number, number[]>;
}

let lastStamp = 0;

/** A sector that says which write it comes from; 0 is the sector that reads as zeroes. */
const stamped = (stamps: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(stamps.length * SECTOR);
  stamps.forEach((stamp, i) => {
    for (let at = 0; at < SECTOR; at += 4) bytes.writeUInt32LE(stamp, i * SECTOR + at);
  });
  return bytes;
};

/** The stamps of sectors. Throws when one is not whole. */
export const stampsOf = (bytes: Uint8Array): Uint32Array => {
  const words = new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  return Uint32Array.from({ length: bytes.length / SECTOR }, (_, i) => {
    const sector = words.subarray(i * 128, (i + 1) * 128);
    const [stamp] = sector;
    if (!sector.every((word) => word === stamp)) throw new Error(`sector ${i} is torn: ${sector.join(' ')}`);
    return stamp!;
  });
};

/** Throws where sectors hold what they cannot have held in a moment. */
export const checkMoment = (what: string, found: Uint32Array, { before, meanwhile }: Moment): void => {
  found.forEach((stamp, sector) => {
    if (stamp === (before[sector] ?? 0) || meanwhile.get(sector)?.includes(stamp)) return;
    const may = [before[sector] ?? 0, ...(meanwhile.get(sector) ?? [])].join(' or ');
    throw new Error(`${what}: sector ${sector} holds ${stamp}, and may hold ${may}`);
  });
};

/**
 * A disk under random load, and the stamp that each of its sectors must hold. Requests that are in flight at once never
 * overlap when one of them writes, so what a sector holds is certain, but for the time in which a request is in flight.
 */
export class StampedDisk {
  /** Why a request went wrong. */
  failure: Error | undefined;
  requests = 0;
  private readonly inFlight = new Set<{ start: number; end: number; stamps: number[] | undefined }>();
  private readonly moments = new Set<Moment>();
  private readonly loops: Promise<void>[] = [];
  private stopped = false;

  constructor(
    readonly disk: FakeBlkDisk,
    private readonly random: Random,
    /** What each sector holds. */
    public stamps: Uint32Array,
  ) {}

  /** Begins to keep so many requests in flight. */
  start(depth: number): void {
    this.stopped = false;
    for (let i = 0; i < depth; i += 1) this.loops.push(this.loop());
  }

  /** Resolves when nothing is in flight any more. Throws what went wrong. */
  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all(this.loops.splice(0));
    if (this.failure !== undefined) throw this.failure;
  }

  /** Begins to note what sectors may hold from now on, until `endMoment`. */
  beginMoment(): Moment {
    const moment: Moment = { before: this.stamps.slice(), meanwhile: new Map() };
    this.moments.add(moment);
    for (const { start, stamps } of this.inFlight) if (stamps) noteAll([moment], start, stamps);
    return moment;
  }

  endMoment(moment: Moment): void {
    this.moments.delete(moment);
  }

  grow(sizeBytes: number): void {
    const stamps = new Uint32Array(sizeBytes / SECTOR);
    stamps.set(this.stamps);
    this.stamps = stamps;
  }

  /** Reads everything through the rings and compares it; nothing may be in flight. */
  async verify(what: string): Promise<void> {
    const found = new Uint32Array(this.stamps.length);
    const step = 256;
    for (let at = 0; at < found.length; at += step) {
      const sectors = Math.min(step, found.length - at);
      found.set(stampsOf(await this.disk.read(at * SECTOR, sectors * SECTOR)), at);
    }
    checkMoment(what, found, { before: this.stamps, meanwhile: new Map() });
  }

  private async loop(): Promise<void> {
    while (!this.stopped && this.failure === undefined) {
      try {
        await this.one();
      } catch (error) {
        this.failure ??= error instanceof Error ? error : new Error(String(error));
      }
    }
  }

  private async one(): Promise<void> {
    const { random, disk } = this;
    const queue = random.below(disk.queues.length);
    if (random.chance(0.03)) return disk.flush({ queue });
    const range = this.freeRange();
    if (!range) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      return undefined;
    }
    const [start, sectors] = range;
    const kind = random.pick(['read', 'read', 'write', 'write', 'write', 'discard', 'zero'] as const);
    const stamps =
      kind === 'read'
        ? undefined
        : Array.from({ length: sectors }, () => (kind === 'write' ? (lastStamp += 1) : 0));
    const entry = { start, end: start + sectors, stamps };
    this.inFlight.add(entry);
    if (stamps) noteAll(this.moments, start, stamps);
    this.requests += 1;
    const offsetBytes = start * SECTOR;
    const lengthBytes = sectors * SECTOR;
    const framing = { alignBytes: random.pick([1, 512, 4096]) };
    if (kind === 'read') {
      const found = stampsOf(await disk.read(offsetBytes, lengthBytes, { queue, framing }));
      const moment = { before: this.stamps.subarray(start, start + sectors), meanwhile: new Map() };
      try {
        checkMoment(`a read of ${sectors} from sector ${start}`, found, moment);
      } catch (cause) {
        // Was it only this once, or is it what the disk holds?
        const again = stampsOf(await disk.read(offsetBytes, lengthBytes, { queue }));
        checkMoment('read again', again, moment);
        throw new Error('read wrongly once', { cause });
      }
    } else if (kind === 'write') await disk.write(offsetBytes, stamped(stamps!), { queue, framing });
    else if (kind === 'discard') await disk.discard([{ offsetBytes, lengthBytes }], { queue });
    else await disk.writeZeroes([{ offsetBytes, lengthBytes, unmap: random.chance(0.5) }], { queue });
    if (stamps) this.stamps.set(stamps, start);
    this.inFlight.delete(entry);
    return undefined;
  }

  /** A range that nothing in flight touches: most often some sectors, at a block or not. */
  private freeRange(): [number, number] | undefined {
    const { random, stamps } = this;
    for (let tries = 0; tries < 20; tries += 1) {
      const blocks = random.chance(0.5);
      const unit = blocks ? 8 : 1;
      const most = random.chance(0.03) ? stamps.length / unit : random.pick([1, 4, 24]);
      const sectors = (1 + random.below(most)) * unit;
      const start = random.below(stamps.length / unit) * unit;
      const end = Math.min(start + Math.min(sectors, 512), stamps.length);
      if ([...this.inFlight].every((other) => other.end <= start || end <= other.start))
        return [start, end - start];
    }
    return undefined;
  }
}

const noteAll = (moments: Iterable<Moment>, start: number, stamps: readonly number[]): void => {
  for (const { meanwhile } of moments) {
    stamps.forEach((stamp, i) => {
      const before = meanwhile.get(start + i);
      if (before) before.push(stamp);
      else meanwhile.set(start + i, [stamp]);
    });
  }
};
