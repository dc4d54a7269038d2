import type { Chain } from './chain.js';
import { PackedInflight, packedInflightBytes } from './packed-inflight.js';
import { packedRingBytes } from './packed-ring-memory.js';
import { PackedVirtqueue } from './packed-virtqueue.js';
import { type RingAddresses, ringBytes } from './ring-memory.js';
import { SplitInflight, splitInflightBytes } from './split-inflight.js';
import { SplitVirtqueue, type SplitVirtqueueConfig } from './split-virtqueue.js';

/** The device's side of a virtqueue, whatever its layout; SplitVirtqueue says what each verb does. */
export interface Virtqueue {
  readonly size: number;
  readonly chain: Chain;
  readonly inFlightCount: number;
  readonly nextAvail: number;
  /** Are there chains of an earlier process that were not taken yet? `nextAvail` is behind them already. */
  readonly resuming: boolean;
  hasAvail(): boolean;
  peekAvail(): number;
  take(head: number): void;
  complete(head: number, writtenBytes: number): void;
  publish(): boolean;
  armKick(): boolean;
  disarmKick(): void;
}

export interface VirtqueueConfig extends Omit<SplitVirtqueueConfig, 'inflight'> {
  packed: boolean;
  /** Region in which this ring's requests in flight are recorded, and for how many entries it was made. */
  inflight?: { buffer: ArrayBuffer; entries: number };
}

/** Byte lengths of the three parts of a virtqueue of `size` entries. */
export const virtqueueBytes = (size: number, options: { packed: boolean }): RingAddresses =>
  options.packed ? packedRingBytes(size) : ringBytes(size);

/** Bytes of one ring's region in the in-flight area of `entries` entries a ring. */
export const inflightBytes = (entries: number, options: { packed: boolean }): number =>
  options.packed ? packedInflightBytes(entries) : splitInflightBytes(entries);

/** Throws VirtqueueError when the ring is laid out wrongly, or its in-flight record contradicts it. */
export const makeVirtqueue = ({ packed, inflight, ...config }: VirtqueueConfig): Virtqueue => {
  const region = inflight && { ...inflight, offsetBytes: 0 };
  if (packed)
    return new PackedVirtqueue({ ...config, ...(region && { inflight: new PackedInflight(region) }) });
  return new SplitVirtqueue({ ...config, ...(region && { inflight: new SplitInflight(region) }) });
};
