import { VirtqueueError } from './virtqueue-error.js';

// What the in-flight records of both ring layouts share (vhost-user, "Inflight I/O tracking").

/** The layout's version; 0 in a region that nobody used yet. */
export const INFLIGHT_VERSION = 1;

/** Queue regions start at multiples of this: INFLIGHT_ALIGNMENT of QEMU's libvhost-user and of DPDK. */
const REGION_ALIGN = 64;
const U32 = 2 ** 32;

/** Where a region lies. `entries` is the queue size of the inflight message, at least the ring's own. */
export interface InflightRegion {
  buffer: ArrayBuffer;
  /** A multiple of 64 when regions stand side by side. */
  offsetBytes: number;
  entries: number;
}

/** Bytes that a region of `headerBytes` and `entries` takes among others. */
export const alignedRegionBytes = (headerBytes: number, entryBytes: number, entries: number): number =>
  Math.ceil((headerBytes + entryBytes * entries) / REGION_ALIGN) * REGION_ALIGN;

/** Throws VirtqueueError when a region does not fit where it is said to lie. */
export const checkRegion = ({ buffer, offsetBytes, entries }: InflightRegion, lengthBytes: number): void => {
  const misplaced = offsetBytes % 8 !== 0 || offsetBytes + lengthBytes > buffer.byteLength;
  if (entries < 1 || entries > 32768 || misplaced) throw inflightInvalid({ entries, offsetBytes });
};

/** A record entry that is in flight, with the place in time where it was taken. */
export interface Counted {
  index: number;
  counter: number;
}

/** Entries in the order in which they were taken. */
export interface Ordered {
  order: Uint16Array;
  /** The counter to go on from. */
  nextCounter: number;
}

/** Sorts entries by their counters. */
export const inOrder = (found: Counted[]): Ordered => {
  found.sort((a, b) => a.counter - b.counter);
  const order = Uint16Array.from(found, ({ index }) => index);
  return { order, nextCounter: (found.at(-1)?.counter ?? -1) + 1 };
};

/** A 64-bit counter at a word index; we never write one above 2^52. */
export const counterAt = (words: Uint32Array, at: number): number => {
  const high = words[at + 1]!;
  if (high >= 2 ** 20) throw inflightInvalid({ counterHigh: high });
  return high * U32 + words[at]!;
};

/** The region contradicts itself: whoever shares it forged it, or it is of another ring. */
export const inflightInvalid = (details: Record<string, number>): VirtqueueError =>
  new VirtqueueError('inflight-invalid', details);
