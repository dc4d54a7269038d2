import type { FeatureSet, RingAddresses } from '@cairn/virtio';
import type { MemoryLayout } from './memory-table.js';
import type { RingFds } from './vring.js';

/** A part of shared memory, by address in this process. */
export interface AreaSlice {
  address: number;
  sizeBytes: number;
}

/** A ring that is ready to be processed. Plain data, so that any thread can be told. */
export interface RingStart {
  index: number;
  size: number;
  nextAvail: number;
  /** Guest physical addresses. */
  addresses: RingAddresses;
  layout: MemoryLayout;
  fds: RingFds;
  /** Where this ring's requests in flight are tracked. */
  inflight?: AreaSlice & { entries: number };
  /** Bitmap in which written pages are marked, and the address under which the used ring is. */
  log?: AreaSlice & { usedGpa: number | undefined };
}

/** The device behind a session. Each `done` may be called at once or later, always exactly once. */
export interface VhostUserBackend {
  readonly queueCount: number;
  readonly offeredFeatures: FeatureSet;
  /** Called while no ring runs. */
  setFeatures(features: FeatureSet): void;
  startRing(start: RingStart): void;
  /**
   * Stops taking requests and calls `done` with the next avail index when none is in flight and no view is left.
   * `resumes`: only for a change that the front-end asked for, after which the ring goes on.
   */
  stopRing(index: number, done: (nextAvail: number) => void, options: { resumes: boolean }): void;
  /** Calls `done` when the descriptors of before are not used any more. */
  setRingFds(index: number, fds: RingFds, done: () => void): void;
  readConfig(offset: number, size: number): Uint8Array | undefined;
  /** `done(false)`: the driver may not write that. */
  writeConfig(offset: number, data: Uint8Array, done: (accepted: boolean) => void): void;
  /** Calls `done` when no request is in flight any more that a front-end has left behind whose connection ended. */
  whenAlone(done: () => void): void;
  /** What the driver has set and front-ends do not repeat, as one number: it is kept with the record of requests. */
  readonly driverState: number;
  /** The driver goes on that had set this when the process of before ended. The number may be any: it was shared. */
  restoreDriverState(state: number): void;
  /** The driver has reset the device: it is as it was when it was made. */
  reset(): void;
}
