import type { GuestRam } from './guest-ram.js';

/** A buffer of a chain, before it becomes a descriptor. */
export interface Segment {
  gpa: number;
  lengthBytes: number;
  writable: boolean;
}

/** A chain that the device has given back. */
export interface UsedChain {
  /** Head index in a split ring, buffer id in a packed one. */
  head: number;
  /** Bytes the device says it wrote. */
  lengthBytes: number;
}

/** The device broke a rule of the ring. */
export class DeviceFault extends Error {
  override readonly name = 'DeviceFault';
}

/** Where a ring lies; each part is allocated unless it is given. */
export interface RingPlace {
  size: number;
  eventIdx: boolean;
  /** Where both sides start from: a split ring's index, or a packed ring's slot with its wrap counter in bit 15. */
  base?: number | undefined;
  /** Region of guest memory to allocate from. */
  region?: number | undefined;
  descGpa?: number;
  availGpa?: number;
  usedGpa?: number;
}

/** The driver's side of a virtqueue, whatever its layout. */
export interface RingDriver {
  readonly ram: GuestRam;
  readonly size: number;
  readonly eventIdx: boolean;
  readonly descGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
  /** SET_VRING_BASE for a back-end that is to see again every chain which did not come back. */
  readonly base: number;
  /** SET_VRING_BASE after the back-end has died: as much as a front-end can know, which sees only guest memory. */
  readonly baseFromMemory: number;
  /** What GET_VRING_BASE must answer once every chain has come back. */
  readonly drainedBase: number;
  /** Chains the device still has. */
  readonly inFlightCount: number;
  readonly freeDescriptors: number;
  /** Has the device published a used chain that was not taken? */
  readonly hasUsed: boolean;
  /** Writes a chain, unseen by the device until `publish`; returns the head that `popUsed` will give. */
  submit(segments: readonly Segment[], options?: { indirectAfter?: number | undefined }): number;
  /** Shows the device what was submitted; true when it wants a kick for it. */
  publish(): boolean;
  /** Asks for a call at the next used chain, or for none. */
  wantCalls(want: boolean): void;
  /** Takes the next used chain and checks it, or `undefined` when there is none. Throws DeviceFault. */
  popUsed(): UsedChain | undefined;
}
