import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';

const LOG_PAGE_BYTES = 4096; // VHOST_LOG_PAGE

/** The dirty log that a migrating front-end shares: one bit a page of guest physical memory. */
export class DirtyBitmap {
  readonly sizeBytes: number;
  readonly fd: number;
  private readonly address: number;
  private readonly buffer: ArrayBuffer;
  private readonly bits: Uint8Array;

  /** For guest physical addresses below `endGpa`. */
  constructor(endGpa: number) {
    this.sizeBytes = Math.ceil(endGpa / LOG_PAGE_BYTES / 8 / 4096) * 4096;
    this.fd = check('memfd', native.memfd('fake-dirty-log', this.sizeBytes));
    this.address = check('mapShared', native.mapShared(this.fd, 0, this.sizeBytes));
    this.buffer = native.view(this.address, this.sizeBytes);
    this.bits = new Uint8Array(this.buffer);
  }

  /** Whether the page of a guest physical address is marked. */
  isDirty(gpa: number): boolean {
    const page = Math.floor(gpa / LOG_PAGE_BYTES);
    return (this.bits[Math.floor(page / 8)]! & (1 << (page % 8))) !== 0;
  }

  /** Guest physical addresses of the marked pages, in order. */
  pages(): number[] {
    const found: number[] = [];
    this.bits.forEach((byte, at) => {
      if (byte === 0) return;
      for (let bit = 0; bit < 8; bit += 1)
        if ((byte & (1 << bit)) !== 0) found.push((at * 8 + bit) * LOG_PAGE_BYTES);
    });
    return found;
  }

  /** Takes what is marked and unmarks it, as a migration's next pass. */
  take(): number[] {
    const found = this.pages();
    for (const gpa of found) {
      const page = gpa / LOG_PAGE_BYTES;
      Atomics.and(this.bits, Math.floor(page / 8), ~(1 << (page % 8)));
    }
    return found;
  }

  close(): void {
    native.detach(this.buffer);
    native.unmap(this.address, this.sizeBytes);
    closeSync(this.fd);
  }
}
