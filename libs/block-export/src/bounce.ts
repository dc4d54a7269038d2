import { native } from '@cairn/native';
import type { RequestSlots } from './request-slots.js';

/** Most bytes that one step moves through a bounce buffer. */
export const BOUNCE_BYTES = 1024 * 1024;

/** Aligned memory of our own for a request whose buffers O_DIRECT cannot take. Rare, so made for each request. */
export class BounceBuffer {
  readonly bytes: Uint8Array;
  private readonly buffer: ArrayBuffer;
  /** Where this step's data starts in the file, aligned down, and its length, aligned up. */
  start = 0;
  length = 0;
  /** Where the guest's bytes lie in the buffer, and how many this step moves. */
  skip = 0;
  count = 0;

  private constructor(
    private readonly offsetMask: number,
    private readonly address: number,
    private readonly sizeBytes: number,
  ) {
    this.buffer = native.view(address, sizeBytes);
    this.bytes = new Uint8Array(this.buffer);
  }

  /** `offsetMask`: alignment of offsets and lengths, minus 1. Undefined when there is no memory. */
  static make(offsetMask: number): BounceBuffer | undefined {
    const sizeBytes = BOUNCE_BYTES + 2 * (offsetMask + 1);
    const address = native.mapShared(-1, 0, sizeBytes);
    return address < 0 ? undefined : new BounceBuffer(offsetMask, address, sizeBytes);
  }

  get addressLow(): number {
    return this.address % 2 ** 32;
  }

  get addressHigh(): number {
    return Math.floor(this.address / 2 ** 32);
  }

  /** Frames the next step of a request: whole aligned blocks around what is left, at most BOUNCE_BYTES of it. */
  frame(offsetBytes: number, remainingBytes: number): void {
    const unit = this.offsetMask + 1;
    this.count = Math.min(remainingBytes, BOUNCE_BYTES);
    this.skip = offsetBytes % unit;
    this.start = offsetBytes - this.skip;
    this.length = Math.ceil((this.skip + this.count) / unit) * unit;
  }

  /** Does this step cover blocks that it does not fill, so that they must be read before they are written? */
  get partial(): boolean {
    return this.skip !== 0 || this.length !== this.count;
  }

  /** Copies this step's bytes between the buffer and the guest's scatter list of `slot`. */
  copy(slots: RequestSlots, slot: number, direction: 'to-guest' | 'from-guest'): void {
    const list = slots.list(slot);
    let at = slots.first[slot]! * 4;
    let done = 0;
    while (done < this.count) {
      const address = list[at + 1]! * 2 ** 32 + list[at]!;
      const part = Math.min(list[at + 2]!, this.count - done);
      if (direction === 'to-guest') native.poke(address, this.bytes, this.skip + done, part);
      else native.peek(address, this.bytes, this.skip + done, part);
      done += part;
      at += 4;
    }
  }

  close(): void {
    native.detach(this.buffer);
    native.unmap(this.address, this.sizeBytes);
  }
}
