import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';

/** Where a stretch of guest memory lies. */
export interface RamRegionSpec {
  gpa: number;
  sizeBytes: number;
  /** Offset of the region in its memfd. */
  mmapOffsetBytes?: number;
}

/** A stretch of guest memory, mapped in this process. */
export interface RamRegion {
  readonly gpa: number;
  readonly sizeBytes: number;
  readonly mmapOffsetBytes: number;
  /** The front-end's name for the first byte; unlike the GPA and unlike the real mapping, so that mix-ups show. */
  readonly userAddress: number;
  readonly fd: number;
  readonly bytes: Uint8Array;
}

/** A region with what this process sees it through, and what of it is allocated, in order. */
interface Mapped {
  region: RamRegion;
  buffer: ArrayBuffer;
  address: number;
  view: DataView;
  words: Uint16Array;
  taken: Block[];
}

interface Block {
  gpa: number;
  sizeBytes: number;
}

const USER_BASE = 0x5550_0000_0000;
const GUARD_GAP = 0x100_0000;

/** Memory of a pretended guest: one memfd a region, with an allocator for the buffers of a test. */
export class GuestRam {
  private readonly mapped: Mapped[] = [];
  private nextUserAddress = USER_BASE;

  /** Makes and maps the regions; sizes and offsets are multiples of the page size. */
  constructor(specs: readonly RamRegionSpec[]) {
    for (const spec of specs) this.plug(spec);
  }

  get regions(): readonly RamRegion[] {
    return this.mapped.map(({ region }) => region);
  }

  /** Adds a region, as a hot-plugged DIMM; `allocate` takes from it first. */
  plug({ gpa, sizeBytes, mmapOffsetBytes = 0 }: RamRegionSpec): RamRegion {
    const fd = check('memfd', native.memfd('fake-guest', mmapOffsetBytes + sizeBytes));
    const address = check('mapShared', native.mapShared(fd, mmapOffsetBytes, sizeBytes));
    const buffer = native.view(address, sizeBytes);
    const userAddress = this.nextUserAddress;
    this.nextUserAddress += sizeBytes + GUARD_GAP;
    const region = { gpa, sizeBytes, mmapOffsetBytes, userAddress, fd, bytes: new Uint8Array(buffer) };
    const view = new DataView(buffer);
    this.mapped.push({ region, buffer, address, view, words: new Uint16Array(buffer), taken: [] });
    return region;
  }

  /** Takes a region away and closes its memfd. Throws while something of it is allocated. */
  unplug(region: RamRegion): void {
    const at = this.mapped.findIndex((mapped) => mapped.region === region);
    const found = this.mapped[at];
    if (!found) throw new Error(`the fake guest has no such region at ${region.gpa}`);
    if (found.taken.length > 0)
      throw new Error(`${found.taken.length} buffers lie in the region at ${region.gpa}`);
    this.mapped.splice(at, 1);
    release(found);
  }

  /** The bytes at a GPA, as the device sees them too. Throws when they are not inside one region. */
  bytes(gpa: number, lengthBytes: number): Uint8Array {
    const [{ region }, offset] = this.locate(gpa, lengthBytes);
    return region.bytes.subarray(offset, offset + lengthBytes);
  }

  /** The front-end's user address of a GPA, which ring addresses in vhost-user are made of. */
  userAddress(gpa: number): number {
    const [{ region }, offset] = this.locate(gpa, 0);
    return region.userAddress + offset;
  }

  getU16(gpa: number): number {
    const [{ view }, offset] = this.locate(gpa, 2);
    return view.getUint16(offset, true);
  }

  setU16(gpa: number, value: number): void {
    const [{ view }, offset] = this.locate(gpa, 2);
    view.setUint16(offset, value & 0xffff, true);
  }

  getU32(gpa: number): number {
    const [{ view }, offset] = this.locate(gpa, 4);
    return view.getUint32(offset, true);
  }

  setU32(gpa: number, value: number): void {
    const [{ view }, offset] = this.locate(gpa, 4);
    view.setUint32(offset, value >>> 0, true);
  }

  setU64(gpa: number, value: number | bigint): void {
    const [{ view }, offset] = this.locate(gpa, 8);
    view.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
  }

  /** A 16-bit field with sequential consistency, for what driver and device race on; `gpa` must be even. */
  loadU16(gpa: number): number {
    const [{ words }, offset] = this.locate(gpa, 2);
    return Atomics.load(words, offset >>> 1);
  }

  /** Stores a 16-bit field with sequential consistency; `gpa` must be even. */
  storeU16(gpa: number, value: number): void {
    const [{ words }, offset] = this.locate(gpa, 2);
    Atomics.store(words, offset >>> 1, value & 0xffff);
  }

  /** Takes a free stretch, first fit, from the region asked for or else from the last one with room. */
  allocate(lengthBytes: number, alignBytes = 16, region?: number): number {
    const candidates = region === undefined ? this.mapped.toReversed() : [this.mapped[region]!];
    for (const candidate of candidates) {
      const gpa = fit(candidate, lengthBytes, alignBytes);
      if (gpa !== undefined) return gpa;
    }
    throw new Error(`the fake guest has no ${lengthBytes} bytes left`);
  }

  /** Gives back what `allocate` gave. */
  free(gpa: number): void {
    for (const { taken } of this.mapped) {
      const at = taken.findIndex((block) => block.gpa === gpa);
      if (at >= 0) {
        taken.splice(at, 1);
        return;
      }
    }
    throw new Error(`GPA ${gpa} was not allocated`);
  }

  /** Unmaps everything and closes the memfds. */
  close(): void {
    for (const mapped of this.mapped.splice(0)) release(mapped);
  }

  private locate(gpa: number, lengthBytes: number): [mapped: Mapped, offset: number] {
    for (let i = 0; i < this.mapped.length; i++) {
      const mapped = this.mapped[i]!;
      const { gpa: start, sizeBytes } = mapped.region;
      if (gpa >= start && gpa + lengthBytes <= start + sizeBytes) return [mapped, gpa - start];
    }
    throw new Error(`GPA ${gpa}+${lengthBytes} is outside the fake guest's memory`);
  }
}

const release = ({ region, buffer, address }: Mapped): void => {
  native.detach(buffer);
  native.unmap(address, region.sizeBytes);
  closeSync(region.fd);
};

const fit = ({ region, taken }: Mapped, lengthBytes: number, alignBytes: number): number | undefined => {
  const align = (gpa: number) => Math.ceil(gpa / alignBytes) * alignBytes;
  const end = region.gpa + region.sizeBytes;
  let gpa = align(region.gpa);
  let at = 0;
  for (; at < taken.length; at++) {
    const next = taken[at]!;
    if (gpa + lengthBytes <= next.gpa) break;
    gpa = align(next.gpa + next.sizeBytes);
  }
  if (gpa + lengthBytes > end) return undefined;
  taken.splice(at, 0, { gpa, sizeBytes: Math.max(lengthBytes, 1) });
  return gpa;
};
