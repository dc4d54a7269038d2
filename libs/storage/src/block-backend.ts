/**
 * The bytes of one volume, wherever they lie. Offsets and lengths are in bytes and multiples of 512, inside the volume.
 *
 * Writes and discards that overlap take effect one after the other, in the order of the calls; a read beside a write
 * sees each sector before or after it. What has completed is read by what is called afterwards, and outlives the process;
 * a power cut it outlives when a flush was called after it completed and succeeded. Every failure is a StorageError; after
 * a failed flush nothing is written or flushed any more.
 */
export interface BlockBackend {
  readonly sizeBytes: number;
  /** Fills `into` from an offset. */
  readAt(offsetBytes: number, into: Uint8Array): Promise<void>;
  /** Writes all of `from`. Rejects with `read-only`, or `pool-full`: then any part of it may be written. */
  writeAt(offsetBytes: number, from: Uint8Array): Promise<void>;
  /** The range reads as zeroes from now on, and its space is given back as far as it can be. */
  discard(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** The range reads as zeroes from now on. */
  writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void>;
  flush(): Promise<void>;
  /** Waits for what is under way; nothing may be called afterwards. */
  close(): Promise<void>;
}

/** What offsets and lengths are multiples of. */
export const SECTOR_BYTES = 512;
