import { IO_URING } from '@cairn/native';
import { BLK_STATUS } from '@cairn/virtio';
import { BounceBuffer } from './bounce.js';
import { SLOT } from './request-slots.js';
import type { ShardPort } from './shard-host.js';

/** Reads and writes whose buffers or ranges O_DIRECT cannot take; they go through memory of our own, step by step. */
export class Bouncing {
  private readonly buffers = new Map<number, BounceBuffer>();
  /** Requests that must be alone on their volume, in order. */
  private readonly exclusive: number[] = [];

  constructor(private readonly shard: ShardPort) {}

  /** Must this request, whose scatter list is there, take the way through here? */
  needed(slot: number): boolean {
    return isMisaligned(this.shard, slot);
  }

  start(slot: number, write: boolean): void {
    const { shard } = this;
    const { slots } = shard.host;
    const { offsetMask } = shard.file;
    const buffer = BounceBuffer.make(offsetMask);
    if (!buffer) return shard.fault(slot, 'no-memory');
    this.buffers.set(slot, buffer);
    slots.kind[slot] = write ? SLOT.BOUNCE_WRITE : SLOT.BOUNCE_READ;
    buffer.frame(slots.offset[slot]!, slots.remaining[slot]!);
    if (!write || ((slots.offset[slot]! | slots.remaining[slot]!) & offsetMask) === 0) {
      return this.step(slot, buffer);
    }
    // Less than a block: read, patch, write. Two of them on one block would undo each other, so it must be alone.
    this.exclusive.push(slot);
    shard.pauses.setAlone(true);
    return this.startExclusive();
  }

  completed(slot: number, kind: number, result: number): void {
    const { slots } = this.shard.host;
    const buffer = this.buffers.get(slot)!;
    if (result < buffer.length) {
      this.end(slot);
      return this.shard.fault(slot, 'short-io');
    }
    if (kind === SLOT.PATCH_READ) {
      buffer.copy(slots, slot, 'from-guest');
      slots.kind[slot] = SLOT.PATCH_WRITE;
      return this.submit(slot, buffer, IO_URING.op.WRITE);
    }
    if (kind === SLOT.BOUNCE_READ) buffer.copy(slots, slot, 'to-guest');
    if (kind === SLOT.PATCH_WRITE) slots.kind[slot] = SLOT.BOUNCE_WRITE;
    slots.advance(slot, buffer.count);
    if (slots.remaining[slot]! > 0) {
      buffer.frame(slots.offset[slot]!, slots.remaining[slot]!);
      return this.step(slot, buffer);
    }
    this.end(slot);
    return kind === SLOT.BOUNCE_READ ? this.shard.finish(slot, BLK_STATUS.OK) : this.shard.written(slot);
  }

  /** Starts the first request that must be alone, once nothing else of this shard is in the kernel. */
  startExclusive(): void {
    if (this.shard.inKernel > 0) return;
    const [slot] = this.exclusive;
    if (slot !== undefined) this.step(slot, this.buffers.get(slot)!);
  }

  /** Gives up what a request holds here, if anything; it has ended. */
  end(slot: number): void {
    this.buffers.get(slot)?.close();
    this.buffers.delete(slot);
    if (this.exclusive[0] !== slot) return;
    this.exclusive.shift();
    this.shard.pauses.setAlone(this.exclusive.length > 0);
  }

  private step(slot: number, buffer: BounceBuffer): void {
    const { slots } = this.shard.host;
    if (slots.kind[slot] === SLOT.BOUNCE_READ) return this.submit(slot, buffer, IO_URING.op.READ);
    if (buffer.partial) {
      slots.kind[slot] = SLOT.PATCH_READ;
      return this.submit(slot, buffer, IO_URING.op.READ);
    }
    buffer.copy(slots, slot, 'from-guest');
    return this.submit(slot, buffer, IO_URING.op.WRITE);
  }

  private submit(slot: number, { start, addressLow, addressHigh, length }: BounceBuffer, op: number): void {
    const flags = op === IO_URING.op.WRITE ? this.shard.writeFlags(slot) : 0;
    this.shard.submitEntry(slot, op, start, addressLow, addressHigh, length, flags);
  }
}

/** Can O_DIRECT not take the range or the memory of this request, whose scatter list is there? */
export const isMisaligned = ({ host, file }: Pick<ShardPort, 'host' | 'file'>, slot: number): boolean => {
  const { slots } = host;
  const { memoryMask, offsetMask } = file;
  if (((slots.offset[slot]! | slots.remaining[slot]!) & offsetMask) !== 0) return true;
  const list = slots.list(slot);
  for (let index = 0, at = 0; index < slots.segments[slot]!; index += 1, at += 4) {
    if (((list[at]! | list[at + 2]!) & memoryMask) !== 0) return true;
    if ((list[at + 2]! & offsetMask) !== 0) return true;
  }
  return false;
};
