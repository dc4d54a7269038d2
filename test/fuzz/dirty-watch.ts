import type { DirtyBitmap } from '@cairn/vhost-user/testing';
import { FakeDriver } from '@cairn/virtio/testing';
import type { RawRequest } from './raw-guest.js';
import type { RawRing } from './raw-ring.js';

const PAGE_BYTES = 4096;

/** Checks that every page of guest memory that the device writes is marked in the dirty log. */
export class DirtyWatch {
  private log: DirtyBitmap | undefined;
  private rings: readonly RawRing[] = [];
  /** Where used entries went since the log was taken last: the first of each ring that has given anything back. */
  private readonly firstUsed = new Map<number, number>();
  private readonly nextUsed = new Map<number, number>();

  begin(log: DirtyBitmap, rings: readonly RawRing[]): void {
    this.log = log;
    this.rings = rings;
    this.restarted();
  }

  end(): void {
    this.log = undefined;
  }

  /** Rings stand elsewhere: what they have given back is forgotten. */
  restarted(): void {
    this.firstUsed.clear();
    this.nextUsed.clear();
    for (const ring of this.rings) this.nextUsed.set(ring.index, usedEntryOf(ring));
  }

  /** A request has come back: its data and its status must be marked already. Throws an Error when they are not. */
  check({ pieces, ring, usedBytes }: RawRequest, what: string): void {
    const { log } = this;
    if (!log) return;
    let left = usedBytes! - 1;
    for (const { gpa, lengthBytes, writable } of pieces) {
      if (!writable || left <= 0) continue;
      const end = gpa + Math.min(left, lengthBytes);
      left -= end - gpa;
      for (let page = pageOf(gpa); page < end; page += PAGE_BYTES)
        if (!log.isDirty(page)) throw new Error(`${what}: page ${page} of its data is not in the log`);
    }
    const status = pieces.at(-1)!;
    if (!log.isDirty(status.gpa + status.lengthBytes - 1))
      throw new Error(`${what}: its status is not in the log`);
    if (!this.firstUsed.has(ring)) this.firstUsed.set(ring, this.nextUsed.get(ring)!);
  }

  /** Checks the used rings, takes what is marked, and begins anew. To be called while nothing is in flight. */
  take(): void {
    const { log } = this;
    if (!log) return;
    for (const { driver, index } of this.rings) {
      const gpa = this.firstUsed.get(index);
      if (gpa === undefined) continue;
      const written = driver instanceof FakeDriver ? [gpa, driver.usedGpa + 2] : [gpa];
      for (const one of written)
        if (!log.isDirty(one)) throw new Error(`ring ${index}: its used entry at ${one} is not in the log`);
    }
    log.take();
    this.restarted();
  }
}

const pageOf = (gpa: number): number => gpa - (gpa % PAGE_BYTES);

/** Guest physical address of what the device writes next to give something back. */
const usedEntryOf = ({ driver }: RawRing): number =>
  driver instanceof FakeDriver
    ? driver.usedGpa + 4 + 8 * (driver.lastUsed & (driver.size - 1))
    : driver.descGpa + 16 * driver.nextUsed.slot;
