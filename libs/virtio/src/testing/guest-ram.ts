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

interface Block {
  gpa: number;
  sizeBytes: number;
}

const USER_BASE = 0x5550_0000_0000;
const GUARD_GAP = 0x100_0000;

/** Memory of a pretended guest: one memfd a region, with an allocator for the buffers of a test. */
export class GuestRam {
  readonly regions: readonly RamRegion[];
  private readonly views: DataView[];
  private readonly words: Uint16Array[];
  private readonly buffers: { buffer: ArrayBuffer; address: number; sizeBytes: number }[] = [];
  private readonly taken: Block[][];

  /** Makes and maps the regions; sizes and offsets are multiples of the page size. */
  constructor(specs: readonly RamRegionSpec[]) {
    let userAddress = USER_BASE;
    this.regions = specs.map(({ gpa, sizeBytes, mmapOffsetBytes = 0 }) => {
      const fd = check('memfd', native.memfd('fake-guest', mmapOffsetBytes + sizeBytes));
      const address = check('mapShared', native.mapShared(fd, mmapOffsetBytes, sizeBytes));
      const buffer = native.view(address, sizeBytes);
      this.buffers.push({ buffer, address, sizeBytes });
      const region = { gpa, sizeBytes, mmapOffsetBytes, userAddress, fd, bytes: new Uint8Array(buffer) };
      userAddress += sizeBytes + GUARD_GAP;
      return region;
    });
    this.views = this.regions.map(({ bytes }) => new DataView(bytes.buffer));
    this.words = this.regions.map(({ bytes }) => new Uint16Array(bytes.buffer));
    this.taken = this.regions.map(() => []);
  }

  /** The bytes at a GPA, as the device sees them too. Throws when they are not inside one region. */
  bytes(gpa: number, lengthBytes: number): Uint8Array {
    const [index, offset] = this.locate(gpa, lengthBytes);
    return this.regions[index]!.bytes.subarray(offset, offset + lengthBytes);
  }

  /** The front-end's user address of a GPA, which ring addresses in vhost-user are made of. */
  userAddress(gpa: number): number {
    const [index, offset] = this.locate(gpa, 0);
    return this.regions[index]!.userAddress + offset;
  }

  getU16(gpa: number): number {
    const [index, offset] = this.locate(gpa, 2);
    return this.views[index]!.getUint16(offset, true);
  }

  setU16(gpa: number, value: number): void {
    const [index, offset] = this.locate(gpa, 2);
    this.views[index]!.setUint16(offset, value & 0xffff, true);
  }

  getU32(gpa: number): number {
    const [index, offset] = this.locate(gpa, 4);
    return this.views[index]!.getUint32(offset, true);
  }

  setU32(gpa: number, value: number): void {
    const [index, offset] = this.locate(gpa, 4);
    this.views[index]!.setUint32(offset, value >>> 0, true);
  }

  setU64(gpa: number, value: number | bigint): void {
    const [index, offset] = this.locate(gpa, 8);
    this.views[index]!.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
  }

  /** A 16-bit field with sequential consistency, for what driver and device race on; `gpa` must be even. */
  loadU16(gpa: number): number {
    const [index, offset] = this.locate(gpa, 2);
    return Atomics.load(this.words[index]!, offset >>> 1);
  }

  /** Stores a 16-bit field with sequential consistency; `gpa` must be even. */
  storeU16(gpa: number, value: number): void {
    const [index, offset] = this.locate(gpa, 2);
    Atomics.store(this.words[index]!, offset >>> 1, value & 0xffff);
  }

  /** Takes a free stretch, first fit, from the region asked for or else from the last one with room. */
  allocate(lengthBytes: number, alignBytes = 16, region?: number): number {
    const candidates = region === undefined ? this.regions.map((_, i) => i).reverse() : [region];
    for (const index of candidates) {
      const gpa = this.fit(index, lengthBytes, alignBytes);
      if (gpa !== undefined) return gpa;
    }
    throw new Error(`the fake guest has no ${lengthBytes} bytes left`);
  }

  /** Gives back what `allocate` gave. */
  free(gpa: number): void {
    for (const blocks of this.taken) {
      const at = blocks.findIndex((block) => block.gpa === gpa);
      if (at >= 0) {
        blocks.splice(at, 1);
        return;
      }
    }
    throw new Error(`GPA ${gpa} was not allocated`);
  }

  /** Unmaps everything and closes the memfds. */
  close(): void {
    for (const { buffer, address, sizeBytes } of this.buffers.splice(0)) {
      native.detach(buffer);
      native.unmap(address, sizeBytes);
    }
    for (const { fd } of this.regions) closeSync(fd);
  }

  private fit(index: number, lengthBytes: number, alignBytes: number): number | undefined {
    const { gpa: start, sizeBytes } = this.regions[index]!;
    const blocks = this.taken[index]!;
    const align = (gpa: number) => Math.ceil(gpa / alignBytes) * alignBytes;
    let gpa = align(start);
    let at = 0;
    for (; at < blocks.length; at++) {
      const next = blocks[at]!;
      if (gpa + lengthBytes <= next.gpa) break;
      gpa = align(next.gpa + next.sizeBytes);
    }
    if (gpa + lengthBytes > start + sizeBytes) return undefined;
    blocks.splice(at, 0, { gpa, sizeBytes: Math.max(lengthBytes, 1) });
    return gpa;
  }

  private locate(gpa: number, lengthBytes: number): [index: number, offset: number] {
    for (let i = 0; i < this.regions.length; i++) {
      const { gpa: start, sizeBytes } = this.regions[i]!;
      if (gpa >= start && gpa + lengthBytes <= start + sizeBytes) return [i, gpa - start];
    }
    throw new Error(`GPA ${gpa}+${lengthBytes} is outside the fake guest's memory`);
  }
}
