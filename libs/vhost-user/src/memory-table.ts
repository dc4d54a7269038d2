import { closeSync, fstatSync, statfsSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { GuestMemory, type MemoryRun } from '@cairn/virtio';
import type { RegionMessage } from './messages.js';
import { VhostUserError } from './vhost-user-error.js';

const PAGE_BYTES = 4096;
const HUGETLBFS_MAGIC = 0x958458f6;
const EDQUOT = 122;

/**
 * Most SIGBUS guards of one mapping. Regions that follow each other in pages of one size share a guard, so that a
 * front-end of many regions leaves room for the others in the process's table of 8192.
 */
const MAX_GUARDS = 8;
const U32 = 2 ** 32;

/**
 * From the lowest to the highest guest physical address of a front-end at most. It bounds the address space that one can
 * make us reserve; 4 TiB is far above what a guest of today has.
 */
export const MAX_SPAN_BYTES = 2 ** 42;

/**
 * Guest physical addresses end here. Those of a guest begin at 0; libblkio, which has no guest, takes the addresses of
 * its own process for them, so that a few regions lie close together far up.
 */
const MAX_GPA_BYTES = 2 ** 52;

/** Where guest memory is mapped in this process: all that another thread needs to reach it. */
export interface MemoryLayout {
  /** Where guest physical address 0 would be: below 0 when guest memory begins far up. */
  baseAddress: number;
  runs: MemoryRun[];
}

/** A region of guest memory with the descriptor that backs it, which its owner closes. */
export interface MemoryRegion {
  message: RegionMessage;
  fd: number;
}

/** One thread's views over a front-end's memory. */
export class MemoryViews {
  readonly memory: GuestMemory;
  private readonly views = new Set<ArrayBuffer>();

  constructor(layout: MemoryLayout) {
    const view = (gpa: number, lengthBytes: number): ArrayBuffer => {
      const buffer = native.view(layout.baseAddress + gpa, lengthBytes);
      this.views.add(buffer);
      return buffer;
    };
    this.memory = new GuestMemory({ baseAddress: layout.baseAddress, view }, layout.runs);
  }

  /** Ends one view early, as when its ring stops. */
  end(view: ArrayBuffer): void {
    if (this.views.delete(view)) check('detach', native.detach(view));
  }

  /** Ends them all; `memory` is dead afterwards. */
  endAll(): void {
    for (const view of this.views) check('detach', native.detach(view));
    this.views.clear();
  }
}

/** A front-end's memory, mapped linearly: guest physical address + `baseAddress` = address in this process. */
export class MappedMemory {
  readonly layout: MemoryLayout;
  private readonly guards: number[] = [];
  private readonly faults = new Int32Array(native.guardFaults());

  /** `address` is where the span is in this process, and `startGpa` the guest physical address there. */
  private constructor(
    private readonly address: number,
    startGpa: number,
    private readonly spanBytes: number,
    private readonly regions: readonly RegionMessage[],
  ) {
    const runs = regions.map(({ gpa, sizeBytes }) => ({ gpa, sizeBytes }));
    this.layout = { baseAddress: address - startGpa, runs };
  }

  /**
   * Maps the regions; their descriptors stay the caller's.
   *
   * Throws VhostUserError when a region is empty, misaligned, overlapping, too far up or from another, not a regular file
   * (memfd, hugetlbfs, tmpfs), or reaches past the end of its file.
   */
  static map(regions: readonly MemoryRegion[]): MappedMemory {
    const messages = regions.map((region) => region.message);
    if (regions.length === 0) throw new VhostUserError('descriptor-count-invalid', { regions: 0 });
    const pageBytes = regions.map((region) => checkRegion(region.message, region.fd));
    checkApart(messages, 'gpa');
    checkApart(messages, 'userAddress');
    const end = Math.max(...messages.map((region) => region.gpa + region.sizeBytes));
    const startGpa = Math.floor(Math.min(...messages.map(({ gpa }) => gpa)) / U32) * U32;
    const spanBytes = Math.ceil((end - startGpa) / U32) * U32;
    if (spanBytes > MAX_SPAN_BYTES) throw new VhostUserError('memory-region-invalid', { spanBytes });
    const address = native.reserve(spanBytes);
    if (address === -EDQUOT) throw new VhostUserError('memory-spans-exhausted', { spanBytes });
    if (address < 0) throw new VhostUserError('memory-map-failed', { spanBytes, errno: -address });
    const mapped = new MappedMemory(address, startGpa, spanBytes, messages);
    try {
      mapped.guard(pageBytes);
      for (const region of regions) mapped.mapRegion(region);
    } catch (error) {
      mapped.unmap();
      throw error;
    }
    return mapped;
  }

  /** Guest physical address of a front-end's user address, when the whole range lies in one region. */
  gpaOf(userAddress: number, lengthBytes: number): number | undefined {
    for (const region of this.regions) {
      const offset = userAddress - region.userAddress;
      if (offset >= 0 && offset + lengthBytes <= region.sizeBytes) return region.gpa + offset;
    }
    return undefined;
  }

  /** Has the front-end taken memory away under us (SIGBUS, survived)? Its connection must go. */
  get faulted(): boolean {
    return this.guards.some((slot) => this.faults[slot + 1] !== 0);
  }

  /** Ends the mapping. Every view, on every thread, must have ended, and nothing be in flight to this memory. */
  unmap(): void {
    check('unreserve', native.unreserve(this.address, this.spanBytes));
    for (const slot of this.guards.splice(0)) native.guardRemove(slot);
  }

  /** Guards the regions, given the page size of each; between them nothing is mapped that could raise SIGBUS. */
  private guard(pageBytes: readonly number[]): void {
    const spans: { start: number; end: number; pageBytes: number }[] = [];
    const regions = this.regions.map((region, index) => ({ ...region, pageBytes: pageBytes[index]! }));
    for (const { gpa, sizeBytes, pageBytes } of regions.toSorted((a, b) => a.gpa - b.gpa)) {
      const last = spans.at(-1);
      const end = Math.ceil((gpa + sizeBytes) / pageBytes) * pageBytes;
      if (last?.pageBytes === pageBytes) last.end = end;
      else spans.push({ start: gpa, end, pageBytes });
    }
    if (spans.length > MAX_GUARDS)
      throw new VhostUserError('memory-region-invalid', { regions: regions.length, guards: spans.length });
    for (const { start, end, pageBytes } of spans) {
      const slot = native.guardAdd(this.layout.baseAddress + start, end - start, pageBytes);
      if (slot < 0) throw new VhostUserError('memory-map-failed', { errno: -slot });
      this.guards.push(slot);
    }
  }

  private mapRegion({ message, fd }: MemoryRegion): void {
    const { gpa, sizeBytes, mmapOffsetBytes } = message;
    const address = this.layout.baseAddress + gpa;
    const result = native.mapFixed(address, sizeBytes, fd, mmapOffsetBytes);
    if (result < 0) throw new VhostUserError('memory-map-failed', { sizeBytes, errno: -result });
  }
}

/** A shared file (in-flight area, dirty log), mapped whole. Guarded like guest memory. Keeps its descriptor. */
export class SharedArea {
  private readonly faults = new Int32Array(native.guardFaults());

  private constructor(
    readonly fd: number,
    readonly offsetBytes: number,
    readonly address: number,
    readonly sizeBytes: number,
    private readonly mapAddress: number,
    private readonly mapBytes: number,
    private readonly guard: number,
  ) {}

  /**
   * Maps `sizeBytes` from `offsetBytes`; owns `fd` from now on, also when it throws. Throws VhostUserError when the file
   * does not hold them.
   */
  static map(fd: number, offsetBytes: number, sizeBytes: number): SharedArea {
    try {
      const file = fstatSync(fd);
      if (!file.isFile()) throw new VhostUserError('descriptor-type-invalid', { wanted: 'file' });
      if (sizeBytes === 0 || sizeBytes > MAX_SPAN_BYTES || offsetBytes + sizeBytes > file.size) {
        throw new VhostUserError('memory-region-invalid', { offsetBytes, sizeBytes, fileBytes: file.size });
      }
      const start = offsetBytes - (offsetBytes % PAGE_BYTES);
      const mapBytes = Math.ceil((offsetBytes + sizeBytes - start) / PAGE_BYTES) * PAGE_BYTES;
      const mapAddress = native.mapShared(fd, start, mapBytes);
      if (mapAddress < 0) throw new VhostUserError('memory-map-failed', { sizeBytes, errno: -mapAddress });
      const guard = native.guardAdd(mapAddress, mapBytes, PAGE_BYTES);
      if (guard < 0) {
        native.unmap(mapAddress, mapBytes);
        throw new VhostUserError('memory-map-failed', { errno: -guard });
      }
      const address = mapAddress + (offsetBytes - start);
      return new SharedArea(fd, offsetBytes, address, sizeBytes, mapAddress, mapBytes, guard);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Has the front-end taken it away under us (SIGBUS, survived)? Its connection must go. */
  get faulted(): boolean {
    return this.faults[this.guard + 1] !== 0;
  }

  /** Every view must have ended. */
  unmap(): void {
    check('unmap', native.unmap(this.mapAddress, this.mapBytes));
    native.guardRemove(this.guard);
    closeSync(this.fd);
  }
}

/** Checks one region against its file and returns the file's page size. */
const checkRegion = (region: RegionMessage, fd: number): number => {
  const { gpa, sizeBytes, userAddress, mmapOffsetBytes } = region;
  const file = fstatSync(fd);
  if (!file.isFile()) throw new VhostUserError('descriptor-type-invalid', { gpa });
  const fileSystem = statfsSync(`/proc/self/fd/${fd}`);
  const pageBytes = fileSystem.type === HUGETLBFS_MAGIC ? fileSystem.bsize : PAGE_BYTES;
  // Memory may end amid a page, as libblkio's rings do; the rest of the page is mapped and not believed. Huge pages are whole.
  const sized = pageBytes === PAGE_BYTES || sizeBytes % pageBytes === 0;
  const aligned = sized && [gpa, mmapOffsetBytes].every((value) => value % pageBytes === 0);
  const inRange =
    sizeBytes > 0 && gpa + sizeBytes <= MAX_GPA_BYTES && userAddress + sizeBytes <= Number.MAX_SAFE_INTEGER;
  if (!aligned || !inRange || mmapOffsetBytes + sizeBytes > file.size) {
    throw new VhostUserError('memory-region-invalid', {
      gpa,
      sizeBytes,
      mmapOffsetBytes,
      fileBytes: file.size,
    });
  }
  return pageBytes;
};

const checkApart = (regions: readonly RegionMessage[], key: 'gpa' | 'userAddress'): void => {
  const sorted = regions.toSorted((a, b) => a[key] - b[key]);
  sorted.forEach((region, index) => {
    const next = sorted[index + 1];
    if (next && region[key] + region.sizeBytes > next[key]) {
      throw new VhostUserError('memory-regions-overlap', { [key]: next[key] });
    }
  });
};
