import { type BlockBackend } from '../block-backend.js';
import { StorageError } from '../storage-error.js';

const SECTOR_BYTES = 512;

/** A volume in memory: what every other back-end must be like. */
export class MemoryBackend implements BlockBackend {
  readonly bytes: Uint8Array;

  constructor(readonly sizeBytes: number) {
    this.bytes = new Uint8Array(sizeBytes);
  }

  async readAt(offsetBytes: number, into: Uint8Array): Promise<void> {
    this.check(offsetBytes, into.length);
    into.set(this.bytes.subarray(offsetBytes, offsetBytes + into.length));
  }

  async writeAt(offsetBytes: number, from: Uint8Array): Promise<void> {
    this.check(offsetBytes, from.length);
    this.bytes.set(from, offsetBytes);
  }

  async discard(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.check(offsetBytes, lengthBytes);
    this.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes);
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.discard(offsetBytes, lengthBytes);
  }

  async flush(): Promise<void> {}

  async close(): Promise<void> {}

  private check(offsetBytes: number, length: number): void {
    const odd = offsetBytes % SECTOR_BYTES || length % SECTOR_BYTES;
    if (!odd && offsetBytes >= 0 && offsetBytes + length <= this.sizeBytes) return;
    throw new StorageError('invalid-argument', { op: 'check range', offsetBytes, reason: `${length} bytes` });
  }
}
