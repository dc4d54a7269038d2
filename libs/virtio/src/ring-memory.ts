import type { GuestMemory } from './guest-memory.js';
import { VirtqueueError } from './virtqueue-error.js';

// The only place with Atomics: ring indices and event words, which the driver changes while we look.
//
//   descriptor table  16 × size bytes, 16-aligned        avail  6 + 2 × size, 2-aligned    (virtio 1.2 §2.7)
//   used              6 + 8 × size bytes, 4-aligned      the last word of avail is used_event, of used avail_event

const AVAIL_FLAG_NO_INTERRUPT = 1;
const USED_FLAG_NO_NOTIFY = 1;
const U16 = 0xffff;
const U32 = 2 ** 32;

/** Guest physical addresses of the three parts of a split virtqueue. */
export interface RingAddresses {
  descriptors: number;
  avail: number;
  used: number;
}

/** Byte lengths of the three parts of a split virtqueue of `size` entries, event words included. */
export const ringBytes = (size: number): RingAddresses => ({
  descriptors: 16 * size,
  avail: 6 + 2 * size,
  used: 6 + 8 * size,
});

/** The shared words of one split virtqueue. Throws VirtqueueError when a part is misaligned or not mapped. */
export class RingMemory {
  /** Descriptor table as 32-bit words: [address low, address high, length, flags | next << 16] an entry. */
  readonly descriptors: Uint32Array;
  /** The views, for whoever must detach them before the memory goes away. */
  readonly buffers: readonly ArrayBuffer[];
  private readonly avail: Uint16Array;
  private readonly used: Uint16Array;
  private readonly usedWords: Uint32Array;

  constructor(
    memory: GuestMemory,
    addresses: RingAddresses,
    readonly size: number,
  ) {
    if (size < 1 || size > 32768 || (size & (size - 1)) !== 0)
      throw new VirtqueueError('ring-size-invalid', { size });
    const bytes = ringBytes(size);
    const check = (part: keyof RingAddresses, align: number): void => {
      const gpa = addresses[part];
      if (gpa % align !== 0) throw new VirtqueueError('ring-misaligned', { [part]: gpa });
      if (!memory.contains(gpa % U32, Math.floor(gpa / U32), bytes[part])) {
        throw new VirtqueueError('ring-outside-memory', { [part]: gpa });
      }
    };
    // All three before the first view: a view that nobody learns of would stay until the memory goes.
    check('descriptors', 16);
    check('avail', 2);
    check('used', 4);
    const descriptors = memory.view(addresses.descriptors, bytes.descriptors);
    const avail = memory.view(addresses.avail, bytes.avail);
    const used = memory.view(addresses.used, bytes.used);
    this.buffers = [descriptors, avail, used];
    this.descriptors = new Uint32Array(descriptors);
    this.avail = new Uint16Array(avail);
    this.used = new Uint16Array(used);
    this.usedWords = new Uint32Array(used, 0, 1 + 2 * size);
  }

  /** avail.idx, with acquire order: entries before it are visible once it is. */
  availIdx(): number {
    return Atomics.load(this.avail, 1);
  }

  availEntry(slot: number): number {
    return this.avail[2 + slot]!;
  }

  /** Writes the used element of `slot`; visible to the driver once `publishUsed` follows. */
  writeUsed(slot: number, head: number, lengthBytes: number): void {
    this.usedWords[1 + 2 * slot] = head;
    this.usedWords[2 + 2 * slot] = lengthBytes;
  }

  /** used.idx, with a full barrier, so that a following read of used_event cannot be early (virtio 1.2 §2.7.7.2). */
  publishUsed(idx: number): void {
    Atomics.store(this.used, 1, idx & U16);
  }

  usedIdx(): number {
    return Atomics.load(this.used, 1);
  }

  usedEvent(): number {
    return Atomics.load(this.avail, 2 + this.size);
  }

  /** avail_event, with a full barrier, so that a following read of avail.idx cannot be early. */
  setAvailEvent(idx: number): void {
    Atomics.store(this.used, 2 + 4 * this.size, idx & U16);
  }

  setNoNotify(on: boolean): void {
    Atomics.store(this.used, 0, on ? USED_FLAG_NO_NOTIFY : 0);
  }

  interruptsWanted(): boolean {
    return (Atomics.load(this.avail, 0) & AVAIL_FLAG_NO_INTERRUPT) === 0;
  }
}
