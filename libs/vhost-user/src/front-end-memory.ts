import { closeSync } from 'node:fs';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
import { MappedMemory, type MemoryRegion } from './memory-table.js';
import { MAX_MEMORY_SLOTS, type RegionMessage } from './messages.js';
import { VhostUserError } from './vhost-user-error.js';

/** A table of regions that has been checked and mapped, but is not in force yet. */
export interface NextMemory {
  regions: MemoryRegion[];
  mapped: MappedMemory | undefined;
}

/**
 * The memory that a front-end shares, region by region. Owns the descriptors and the mapping.
 *
 * A change is prepared while the rings still run on the old mapping, then put in force when none does.
 */
export class FrontEndMemory {
  mapped: MappedMemory | undefined;
  regions: MemoryRegion[] = [];

  /** Prepares a whole new table; owns `fds` from now on, also when it throws. */
  replace(messages: readonly RegionMessage[], fds: readonly number[]): NextMemory {
    try {
      if (messages.length !== fds.length) {
        throw new VhostUserError('descriptor-count-invalid', { regions: messages.length, fds: fds.length });
      }
      const regions = messages.map((message, index) => ({ message, fd: fds[index]! }));
      return { regions, mapped: MappedMemory.map(regions) };
    } catch (error) {
      fds.forEach((fd) => closeSync(fd));
      throw error;
    }
  }

  /** Prepares the table with one region more; owns `fd` from now on, also when it throws. */
  add(message: RegionMessage, fd: number): NextMemory {
    try {
      if (this.regions.length >= MAX_MEMORY_SLOTS) {
        throw new VhostUserError('memory-region-invalid', { regions: this.regions.length });
      }
      const regions = [...this.regions, { message, fd }];
      return { regions, mapped: MappedMemory.map(regions) };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Prepares the table without one region. Throws when there is no such region. */
  remove(message: RegionMessage): NextMemory {
    const regions = this.regions.filter(
      ({ message: { gpa, sizeBytes, userAddress } }) =>
        gpa !== message.gpa || sizeBytes !== message.sizeBytes || userAddress !== message.userAddress,
    );
    if (regions.length === this.regions.length) {
      throw new VhostUserError('memory-region-invalid', { gpa: message.gpa, sizeBytes: message.sizeBytes });
    }
    return { regions, mapped: regions.length === 0 ? undefined : MappedMemory.map(regions) };
  }

  /** Puts a prepared table in force; no ring may be running. */
  commit(next: NextMemory): void {
    this.mapped?.unmap();
    const kept = new Set(next.regions.map((region) => region.fd));
    for (const { fd } of this.regions) if (!kept.has(fd)) closeSync(fd);
    this.regions = next.regions;
    this.mapped = next.mapped;
  }

  /** Drops a prepared table that will not be put in force. */
  discard(next: NextMemory): void {
    next.mapped?.unmap();
    const kept = new Set(this.regions.map((region) => region.fd));
    for (const { fd } of next.regions) if (!kept.has(fd)) closeSync(fd);
  }

  close(): void {
    this.commit({ regions: [], mapped: undefined });
  }

  /** The regions, for a successor. */
  state(list: FdList): HandedValue[] {
    return this.regions.map(({ message, fd }) => ({ ...message, fd: list.add(fd) }));
  }

  /** Maps the regions of a predecessor. Throws HandedStateError or VhostUserError. */
  adopt(readers: readonly HandedReader[]): void {
    const fds: number[] = [];
    let messages: RegionMessage[];
    try {
      messages = readers.map((reader) => {
        fds.push(reader.fd('fd'));
        const message = {
          gpa: reader.integer('gpa'),
          sizeBytes: reader.integer('sizeBytes'),
          userAddress: reader.integer('userAddress'),
          mmapOffsetBytes: reader.integer('mmapOffsetBytes'),
        };
        reader.end();
        return message;
      });
    } catch (error) {
      fds.forEach((fd) => closeSync(fd));
      throw error;
    }
    if (messages.length > 0) this.commit(this.replace(messages, fds));
  }
}
