import type { GuestMemory } from './guest-memory.js';
import type { RingAddresses } from './ring-memory.js';
import { VirtqueueError } from './virtqueue-error.js';

// The shared words of a packed virtqueue, with the Atomics they need (virtio 1.2 §2.8):
//
//   descriptor ring  16 × size bytes, 16-aligned: [address 8 | length 4 | buffer id 2 | flags 2]
//   event suppression, one for each side, 4 bytes, 4-aligned: [offset 15, wrap 1 | flags 2]
//
// The flags of a chain's first descriptor hand the chain over, in both directions: they are read before and stored
// after everything else.

/** Descriptor flags (virtio 1.2 §2.8.1, §2.8.3, §2.8.6, §2.8.7). */
export const PACKED_FLAG = { NEXT: 1, WRITE: 2, INDIRECT: 4, AVAIL: 1 << 7, USED: 1 << 15 } as const;

/** Event suppression flags (virtio 1.2 §2.8.10). */
export const PACKED_EVENT = { ENABLE: 0, DISABLE: 1, DESC: 2 } as const;

/** Largest packed virtqueue; sizes need not be powers of two (virtio 1.2 §2.8). */
export const MAX_PACKED_SIZE = 32768;

const DESCRIPTOR_BYTES = 16;
const EVENT_BYTES = 4;
const EVENT_MASK = 3;
const U32 = 2 ** 32;

/** Byte lengths of the three parts of a packed virtqueue of `size` descriptors. */
export const packedRingBytes = (size: number): RingAddresses => ({
  descriptors: DESCRIPTOR_BYTES * size,
  avail: EVENT_BYTES,
  used: EVENT_BYTES,
});

/** AVAIL and USED of a descriptor that the driver made available in a lap with this wrap counter. */
export const availableFlags = (wrap: number): number => (wrap === 1 ? PACKED_FLAG.AVAIL : PACKED_FLAG.USED);

/** AVAIL and USED of a descriptor that the device used in a lap with this wrap counter. */
export const usedFlags = (wrap: number): number => (wrap === 1 ? PACKED_FLAG.AVAIL | PACKED_FLAG.USED : 0);

/** The bits of the flags that say whose a descriptor is. */
export const OWNER_FLAGS = PACKED_FLAG.AVAIL | PACKED_FLAG.USED;

/** Throws VirtqueueError when no packed virtqueue has that size. */
export const checkPackedSize = (size: number): void => {
  if (!Number.isInteger(size) || size < 1 || size > MAX_PACKED_SIZE)
    throw new VirtqueueError('ring-size-invalid', { size });
};

/** The shared words of one packed virtqueue of a checked size. Throws VirtqueueError when a part is misaligned or not mapped. */
export class PackedRingMemory {
  /** Descriptor ring as 32-bit words: [address low, address high, length, id | flags << 16] a slot. */
  readonly descriptors: Uint32Array;
  /** The views, for whoever must detach them before the memory goes away. */
  readonly buffers: readonly ArrayBuffer[];
  private readonly halves: Uint16Array;
  private readonly driverEvent: Uint16Array;
  private readonly deviceEvent: Uint16Array;

  constructor(memory: GuestMemory, addresses: RingAddresses, size: number) {
    const bytes = packedRingBytes(size);
    const check = (part: keyof RingAddresses, align: number): void => {
      const gpa = addresses[part];
      if (gpa % align !== 0) throw new VirtqueueError('ring-misaligned', { [part]: gpa });
      if (!memory.contains(gpa % U32, Math.floor(gpa / U32), bytes[part])) {
        throw new VirtqueueError('ring-outside-memory', { [part]: gpa });
      }
    };
    // All three before the first view: a view that nobody learns of would stay until the memory goes.
    check('descriptors', 16);
    check('avail', 4);
    check('used', 4);
    const ring = memory.view(addresses.descriptors, bytes.descriptors);
    const driver = memory.view(addresses.avail, bytes.avail);
    const device = memory.view(addresses.used, bytes.used);
    this.buffers = [ring, driver, device];
    this.descriptors = new Uint32Array(ring);
    this.halves = new Uint16Array(ring);
    this.driverEvent = new Uint16Array(driver);
    this.deviceEvent = new Uint16Array(device);
  }

  /** Flags of a slot, with acquire order: what the driver wrote before them is visible once they are. */
  flags(slot: number): number {
    return Atomics.load(this.halves, slot * 8 + 7);
  }

  /** Buffer id in a slot. */
  id(slot: number): number {
    return this.halves[slot * 8 + 6]!;
  }

  /** Writes a used descriptor but for its flags. */
  writeUsed(slot: number, id: number, lengthBytes: number): void {
    this.descriptors[slot * 4 + 2] = lengthBytes;
    this.halves[slot * 8 + 6] = id;
  }

  /** Flags of a used descriptor that stands behind an unpublished one: the driver does not look there yet. */
  writeFlags(slot: number, flags: number): void {
    this.halves[slot * 8 + 7] = flags;
  }

  /** Flags that hand descriptors over, with a full barrier: a following read of the driver's event is not early. */
  publishFlags(slot: number, flags: number): void {
    Atomics.store(this.halves, slot * 8 + 7, flags);
  }

  driverEventFlags(): number {
    return Atomics.load(this.driverEvent, 1) & EVENT_MASK;
  }

  /** Offset in bits 0–14, wrap counter in bit 15; to be read after the flags. */
  driverEventOffset(): number {
    return Atomics.load(this.driverEvent, 0);
  }

  setDeviceEventFlags(flags: number): void {
    Atomics.store(this.deviceEvent, 1, flags);
  }

  /** To be stored before flags that make it count; with a full barrier, like the flags. */
  setDeviceEventOffset(offsetAndWrap: number): void {
    Atomics.store(this.deviceEvent, 0, offsetAndWrap);
  }
}
