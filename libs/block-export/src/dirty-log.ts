import { native } from '@cairn/native';
import type { AreaSlice } from '@cairn/vhost-user';

const PAGE_BYTES = 4096; // VHOST_LOG_PAGE
const U32 = 2 ** 32;

/** A stretch of guest memory, by its address in the log. */
export interface LoggedPart {
  gpa: number;
  lengthBytes: number;
}

/**
 * The bitmap in which a front-end that migrates its guest finds the pages we wrote (vhost-user spec, "Migration").
 *
 * A page is marked after it was written and before the driver is told, so that a page that is copied too early is
 * copied again. Several threads and the front-end change the bitmap at once, hence the atomic or.
 */
export class DirtyLog {
  private readonly buffer: ArrayBuffer;
  private readonly bits: Uint8Array;
  private readonly baseHigh: number;
  private readonly pending = new Map<number, Uint32Array>();

  /** `ring`: what each publication of the ring writes. */
  constructor(
    slice: AreaSlice,
    baseAddress: number,
    private readonly ring: readonly LoggedPart[],
  ) {
    this.baseHigh = baseAddress / U32;
    this.buffer = native.view(slice.address, slice.sizeBytes);
    this.bits = new Uint8Array(this.buffer);
  }

  /** Keeps where a request's answer will be written: its scatter list is used up by then. */
  remember(slot: number, list: Uint32Array, segments: number): void {
    this.pending.set(slot, list.slice(0, segments * 4));
  }

  /** Marks what a request has written: its data and its status byte. */
  completed(slot: number, statusLow: number, statusHigh: number): void {
    const list = this.pending.get(slot);
    this.pending.delete(slot);
    if (list) {
      for (let at = 0; at < list.length; at += 4) {
        this.mark((list[at + 1]! - this.baseHigh) * U32 + list[at]!, list[at + 2]!);
      }
    }
    this.mark(statusHigh * U32 + statusLow, 1);
  }

  /** Marks the used ring, after its index was published: a page that is copied in between must be copied again. */
  published(): void {
    for (const { gpa, lengthBytes } of this.ring) this.mark(gpa, lengthBytes);
  }

  close(): void {
    native.detach(this.buffer);
  }

  private mark(gpa: number, lengthBytes: number): void {
    const last = Math.floor((gpa + lengthBytes - 1) / PAGE_BYTES);
    for (let page = Math.floor(gpa / PAGE_BYTES); page <= last; page += 1) {
      const at = Math.floor(page / 8);
      if (at < this.bits.length) Atomics.or(this.bits, at, 1 << (page % 8));
    }
  }
}
