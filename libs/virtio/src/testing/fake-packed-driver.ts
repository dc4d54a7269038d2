/*
 * The driver's side of one packed virtqueue (virtio 1.2 §2.8), written from the specification and from nothing else,
 * so that it checks the device's side instead of sharing its mistakes.
 *
 * `submit`, `publish` and `popUsed` keep every rule; the raw setters keep none, for tests that break one at a time.
 */
import type { GuestRam } from './guest-ram.js';
import { DeviceFault, type RingDriver, type RingPlace, type Segment, type UsedChain } from './ring-driver.js';
import { DESC } from './virtio-numbers.js';

/** Descriptor flags of packed rings only (virtio 1.2 §2.8.1). */
export const PACKED_DESC = { AVAIL: 0x80, USED: 0x8000 } as const;

/** Event suppression flags (virtio 1.2 §2.8.10). */
export const RING_EVENT = { ENABLE: 0, DISABLE: 1, DESC: 2 } as const;

/** A descriptor as it lies in a packed ring. */
export interface PackedDescriptor {
  gpa: number | bigint;
  lengthBytes: number;
  id: number;
  flags: number;
}

interface InFlight {
  slots: number;
  indirectTableGpa?: number;
  writableBytes: number;
}

/** A place in the ring that knows its lap. */
class Position {
  constructor(
    private readonly size: number,
    public slot: number,
    public wrap: boolean,
  ) {}

  advance(slots: number): void {
    this.slot += slots;
    if (this.slot >= this.size) {
      this.slot -= this.size;
      this.wrap = !this.wrap;
    }
  }

  get available(): number {
    return this.wrap ? PACKED_DESC.AVAIL : PACKED_DESC.USED;
  }

  get used(): number {
    return this.wrap ? PACKED_DESC.AVAIL | PACKED_DESC.USED : 0;
  }

  get word(): number {
    return this.slot | (this.wrap ? 0x8000 : 0);
  }
}

/** One packed virtqueue as a driver sees it. */
export class FakePackedDriver implements RingDriver {
  readonly size: number;
  readonly descGpa: number;
  /** The driver's event suppression. */
  readonly availGpa: number;
  /** The device's event suppression. */
  readonly usedGpa: number;
  readonly eventIdx: boolean;
  private readonly avail: Position;
  private readonly used: Position;
  /** Head flags of submitted chains, unseen by the device until `publish`. */
  private readonly unpublished: { slot: number; flags: number }[] = [];
  private unpublishedSlots = 0;
  private readonly startBase: number;
  private freeSlots: number;
  private readonly freeIds: number[];
  private readonly inFlight = new Map<number, InFlight>();

  /** Places an empty ring of `size` descriptors in guest memory; `base` is a slot with its wrap counter in bit 15. */
  constructor(
    readonly ram: GuestRam,
    options: RingPlace,
  ) {
    const { size, eventIdx, base = 0x8000, region } = options;
    this.size = size;
    this.eventIdx = eventIdx;
    this.descGpa = options.descGpa ?? ram.allocate(16 * size, 16, region);
    this.availGpa = options.availGpa ?? ram.allocate(4, 4, region);
    this.usedGpa = options.usedGpa ?? ram.allocate(4, 4, region);
    ram.bytes(this.availGpa, 4).fill(0);
    ram.bytes(this.usedGpa, 4).fill(0);
    this.avail = new Position(size, base & 0x7fff, base >= 0x8000);
    this.used = new Position(size, base & 0x7fff, base >= 0x8000);
    this.startBase = this.base;
    // What earlier laps would have left: used descriptors, or zeroes in a ring that was never used.
    for (let slot = 0; slot < size; slot += 1) {
      const lap = new Position(size, slot, slot < this.avail.slot ? this.avail.wrap : !this.avail.wrap);
      this.writeDescriptor(slot, { gpa: 0, lengthBytes: 0, id: 0, flags: lap.used });
    }
    this.freeSlots = size;
    this.freeIds = Array.from({ length: size }, (_, id) => id);
  }

  get base(): number {
    return this.used.word + this.used.word * 0x1_0000;
  }

  /** Nothing in the ring tells where the device got to: a front-end offers what it said at the start. */
  get baseFromMemory(): number {
    return this.startBase;
  }

  get drainedBase(): number {
    return this.avail.word + this.avail.word * 0x1_0000;
  }

  get hasUsed(): boolean {
    const { slot, used } = this.used;
    return (this.flags(slot) & (PACKED_DESC.AVAIL | PACKED_DESC.USED)) === used;
  }

  /** Chains the device still has. */
  get inFlightCount(): number {
    return this.inFlight.size;
  }

  get freeDescriptors(): number {
    return this.freeSlots;
  }

  /** Slot and lap of the next descriptor to make available. */
  get nextAvail(): { slot: number; wrap: boolean } {
    return { slot: this.avail.slot, wrap: this.avail.wrap };
  }

  /** Slot and lap where the next used descriptor is expected. */
  get nextUsed(): { slot: number; wrap: boolean } {
    return { slot: this.used.slot, wrap: this.used.wrap };
  }

  /**
   * Writes a chain into the ring, unseen by the device until `publish`; returns its buffer id. With `indirectAfter` 0
   * it is one descriptor with an indirect table: packed rings do not allow a mixture (virtio 1.2 §2.8.5).
   */
  submit(segments: readonly Segment[], options: { indirectAfter?: number | undefined } = {}): number {
    const { indirectAfter = segments.length } = options;
    const indirect = indirectAfter === 0;
    if (!indirect && indirectAfter < segments.length)
      throw new Error('a packed ring has no direct descriptors in front of an indirect one');
    const count = indirect ? 1 : segments.length;
    if (count === 0 || count > this.freeSlots) throw new Error(`no room for a chain of ${count} descriptors`);
    const id = this.freeIds.pop()!;
    const chain: InFlight = { slots: count, writableBytes: 0 };
    for (const { writable, lengthBytes } of segments) if (writable) chain.writableBytes += lengthBytes;

    if (indirect) {
      chain.indirectTableGpa = this.writeTable(segments);
      this.writeNext(
        { gpa: chain.indirectTableGpa, lengthBytes: 16 * segments.length, id, flags: DESC.INDIRECT },
        true,
      );
    } else {
      segments.forEach(({ gpa, lengthBytes, writable }, index) => {
        const last = index === count - 1;
        const flags = (writable ? DESC.WRITE : 0) | (last ? 0 : DESC.NEXT);
        // §2.8.6: the buffer id stands in the last descriptor; a wrong one in the others must not matter.
        this.writeNext({ gpa, lengthBytes, id: last ? id : 0xdead, flags }, index === 0);
      });
    }
    this.freeSlots -= count;
    this.unpublishedSlots += count;
    this.inFlight.set(id, chain);
    return id;
  }

  /** Shows the device what was submitted; true when it wants a kick for it (virtio 1.2 §2.8.21.3). */
  publish(): boolean {
    const added = this.unpublishedSlots;
    // The first chain's head goes last, so that all of them appear at once.
    for (const { slot, flags } of this.unpublished.splice(0).toReversed()) this.setFlags(slot, flags);
    this.unpublishedSlots = 0;
    if (added === 0) return false;
    const flags = this.deviceEventFlags & 3;
    if (flags === RING_EVENT.DISABLE) return false;
    if (flags === RING_EVENT.ENABLE || !this.eventIdx) return true;
    const word = this.ram.loadU16(this.usedGpa);
    // Walk back over what was added: was the slot that the device asked for among it?
    const at = new Position(this.size, this.avail.slot, this.avail.wrap);
    for (let step = 0; step < added; step += 1) {
      at.slot -= 1;
      if (at.slot < 0) {
        at.slot = this.size - 1;
        at.wrap = !at.wrap;
      }
      if (at.word === word) return true;
    }
    return false;
  }

  /** Asks for a call at the next used descriptor, or for none. */
  wantCalls(want: boolean): void {
    if (!want) this.setDriverEvent(RING_EVENT.DISABLE, 0);
    else if (this.eventIdx) this.setDriverEvent(RING_EVENT.DESC, this.used.word);
    else this.setDriverEvent(RING_EVENT.ENABLE, 0);
  }

  /** Takes the next used descriptor and checks it, or `undefined` when there is none. Throws DeviceFault. */
  popUsed(): UsedChain | undefined {
    if (!this.hasUsed) return undefined;
    const { slot } = this.used;
    const flags = this.flags(slot);
    const at = this.descGpa + 16 * slot;
    const id = this.ram.getU16(at + 12);
    const written = (flags & DESC.WRITE) === 0 ? 0 : this.ram.getU32(at + 8);
    const chain = this.inFlight.get(id);
    if (!chain) throw new DeviceFault(`used id ${id} is not in flight`);
    if (written > chain.writableBytes)
      throw new DeviceFault(`used length ${written} exceeds the ${chain.writableBytes} writable bytes`);
    this.inFlight.delete(id);
    this.freeIds.push(id);
    this.freeSlots += chain.slots;
    if (chain.indirectTableGpa !== undefined) this.ram.free(chain.indirectTableGpa);
    this.used.advance(chain.slots);
    return { head: id, lengthBytes: written };
  }

  /** The device's event suppression flags. */
  get deviceEventFlags(): number {
    return this.ram.loadU16(this.usedGpa + 2);
  }

  flags(slot: number): number {
    return this.ram.loadU16(this.descGpa + 16 * slot + 14);
  }

  setFlags(slot: number, flags: number): void {
    this.ram.storeU16(this.descGpa + 16 * slot + 14, flags);
  }

  setDriverEvent(flags: number, offsetAndWrap: number): void {
    this.ram.storeU16(this.availGpa, offsetAndWrap);
    this.ram.storeU16(this.availGpa + 2, flags);
  }

  writeDescriptor(slot: number, descriptor: PackedDescriptor): void {
    this.writeDescriptorAt(this.descGpa + 16 * slot, descriptor);
  }

  /** Writes a descriptor anywhere, such as into an indirect table. */
  writeDescriptorAt(at: number, { gpa, lengthBytes, id, flags }: PackedDescriptor): void {
    this.ram.setU64(at, gpa);
    this.ram.setU32(at + 8, lengthBytes);
    this.ram.setU16(at + 12, id);
    this.ram.storeU16(at + 14, flags);
  }

  /** Makes descriptors available as they are, flags for the lap added, with none of the checks of `submit`. */
  offerRaw(...descriptors: PackedDescriptor[]): void {
    for (const descriptor of descriptors) {
      this.writeDescriptor(this.avail.slot, {
        ...descriptor,
        flags: descriptor.flags | this.avail.available,
      });
      this.avail.advance(1);
    }
  }

  private writeNext(descriptor: PackedDescriptor, isHead: boolean): void {
    const { slot } = this.avail;
    const flags = descriptor.flags | this.avail.available;
    this.writeDescriptor(slot, { ...descriptor, flags: isHead ? this.flags(slot) : flags });
    if (isHead) this.unpublished.push({ slot, flags });
    this.avail.advance(1);
  }

  private writeTable(segments: readonly Segment[]): number {
    const table = this.ram.allocate(16 * segments.length, 16);
    segments.forEach(({ gpa, lengthBytes, writable }, index) => {
      // §2.8.7: id and all flags but WRITE mean nothing here.
      const flags = (writable ? DESC.WRITE : 0) | (index % 2 === 0 ? 0 : DESC.NEXT);
      this.writeDescriptorAt(table + 16 * index, { gpa, lengthBytes, id: 0xbeef, flags });
    });
    return table;
  }
}
