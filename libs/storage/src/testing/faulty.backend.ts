import type { BlockBackend } from '../block-backend.js';
import { StorageError, type StorageErrorKind } from '../storage-error.js';

export type BackendVerb = 'readAt' | 'writeAt' | 'discard' | 'writeZeroes' | 'flush';

/** A back-end that fails on demand and else does what another does. A failed verb has done nothing. */
export class FaultyBackend implements BlockBackend {
  private readonly faults = new Map<BackendVerb, { kind: StorageErrorKind; left: number }>();

  constructor(private readonly inner: BlockBackend) {}

  get sizeBytes(): number {
    return this.inner.sizeBytes;
  }

  /** Fails the next `times` calls of a verb. */
  fail(verb: BackendVerb, kind: StorageErrorKind, times = 1): void {
    this.faults.set(verb, { kind, left: times });
  }

  async readAt(offsetBytes: number, into: Uint8Array): Promise<void> {
    this.reach('readAt', offsetBytes);
    return this.inner.readAt(offsetBytes, into);
  }

  async writeAt(offsetBytes: number, from: Uint8Array): Promise<void> {
    this.reach('writeAt', offsetBytes);
    return this.inner.writeAt(offsetBytes, from);
  }

  async discard(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.reach('discard', offsetBytes);
    return this.inner.discard(offsetBytes, lengthBytes);
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.reach('writeZeroes', offsetBytes);
    return this.inner.writeZeroes(offsetBytes, lengthBytes);
  }

  async flush(): Promise<void> {
    this.reach('flush', 0);
    return this.inner.flush();
  }

  close(): Promise<void> {
    return this.inner.close();
  }

  private reach(verb: BackendVerb, offsetBytes: number): void {
    const fault = this.faults.get(verb);
    if (!fault || fault.left === 0) return;
    fault.left -= 1;
    throw new StorageError(fault.kind, { op: verb, offsetBytes, reason: 'asked for by the test' });
  }
}
