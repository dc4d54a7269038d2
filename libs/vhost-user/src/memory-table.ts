import { closeSync, fstatSync, statfsSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { GuestMemory } from '@cairn/virtio';
import type { RegionMessage } from './messages.js';
import { VhostUserError } from './vhost-user-error.js';

const PAGE_BYTES = 4096;
const HUGETLBFS_MAGIC = 0x958458f6;
const U32 = 2 ** 32;

/**
 * Guest physical addresses end here. It bounds the address space that one front-end can make us reserve; 4 TiB is
 * far above what a guest of today has.
 */
export const MAX_GPA_BYTES = 2 ** 42;

/** A front-end's memory, mapped linearly: guest physical address + `baseAddress` = address in this process. */
export class MappedMemory {
  readonly memory: GuestMemory;
  private readonly views = new Set<ArrayBuffer>();
  private readonly guards: number[] = [];
  private readonly faults = new Int32Array(native.guardFaults());

  private constructor(
    readonly baseAddress: number,
    private readonly spanBytes: number,
    private readonly regions: readonly RegionMessage[],
  ) {
    this.memory = new GuestMemory(
      { baseAddress, view: (gpa, lengthBytes) => this.view(gpa, lengthBytes) },
      regions,
    );
  }

  /**
   * Maps the regions; `fds[i]` backs `regions[i]`. All descriptors are closed, whatever happens.
   *
   * Throws VhostUserError when a region is empty, misaligned, overlapping, too far up, not a regular file (memfd,
   * hugetlbfs, tmpfs), or reaches past the end of its file.
   */
  static map(regions: readonly RegionMessage[], fds: readonly number[]): MappedMemory {
    try {
      if (regions.length === 0 || regions.length !== fds.length) {
        throw new VhostUserError('descriptor-count-invalid', { regions: regions.length, fds: fds.length });
      }
      const pageBytes = regions.map((region, index) => checkRegion(region, fds[index]!));
      checkApart(regions, 'gpa');
      checkApart(regions, 'userAddress');
      const end = Math.max(...regions.map((region) => region.gpa + region.sizeBytes));
      const spanBytes = Math.ceil(end / U32) * U32;
      const base = native.reserve(spanBytes);
      if (base < 0) throw new VhostUserError('memory-map-failed', { spanBytes, errno: -base });
      const mapped = new MappedMemory(base, spanBytes, regions);
      try {
        regions.forEach((region, index) => mapped.mapRegion(region, fds[index]!, pageBytes[index]!));
      } catch (error) {
        mapped.unmap();
        throw error;
      }
      return mapped;
    } finally {
      fds.forEach((fd) => closeSync(fd));
    }
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

  /** Ends every view, then the mapping. Nothing may be in flight to this memory any more. */
  unmap(): void {
    for (const view of this.views) check('detach', native.detach(view));
    this.views.clear();
    check('unmap', native.unmap(this.baseAddress, this.spanBytes));
    for (const slot of this.guards.splice(0)) native.guardRemove(slot);
  }

  /** Ends one view early, as when its ring stops. */
  endView(view: ArrayBuffer): void {
    if (this.views.delete(view)) check('detach', native.detach(view));
  }

  private view(gpa: number, lengthBytes: number): ArrayBuffer {
    const view = native.view(this.baseAddress + gpa, lengthBytes);
    this.views.add(view);
    return view;
  }

  private mapRegion(region: RegionMessage, fd: number, pageBytes: number): void {
    const address = this.baseAddress + region.gpa;
    const slot = native.guardAdd(address, region.sizeBytes, pageBytes);
    if (slot < 0) throw new VhostUserError('memory-map-failed', { errno: -slot });
    this.guards.push(slot);
    const result = native.mapFixed(address, region.sizeBytes, fd, region.mmapOffsetBytes);
    if (result < 0)
      throw new VhostUserError('memory-map-failed', { sizeBytes: region.sizeBytes, errno: -result });
  }
}

/** Checks one region against its file and returns the file's page size. */
const checkRegion = (region: RegionMessage, fd: number): number => {
  const { gpa, sizeBytes, userAddress, mmapOffsetBytes } = region;
  const file = fstatSync(fd);
  if (!file.isFile()) throw new VhostUserError('descriptor-type-invalid', { gpa });
  const fileSystem = statfsSync(`/proc/self/fd/${fd}`);
  const pageBytes = fileSystem.type === HUGETLBFS_MAGIC ? fileSystem.bsize : PAGE_BYTES;
  const aligned = [gpa, sizeBytes, mmapOffsetBytes].every((value) => value % pageBytes === 0);
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
