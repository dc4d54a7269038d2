/*
 * The driver's side of one split virtqueue (virtio 1.2 §2.7), written from the specification and from nothing else,
 * so that it checks the device's side instead of sharing its mistakes.
 *
 * `submit`, `publish` and `popUsed` keep every rule; the raw setters keep none, for tests that break one at a time.
 */
import type { GuestRam } from './guest-ram.js';
import { DeviceFault, type RingDriver, type RingPlace, type Segment, type UsedChain } from './ring-driver.js';
import { DESC } from './virtio-numbers.js';

/** A descriptor as it lies in the table. */
export interface Descriptor {
  gpa: number | bigint;
  lengthBytes: number;
  flags: number;
  next: number;
}

interface InFlight {
  descriptors: number[];
  indirectTableGpa?: number;
  writableBytes: number;
}

/** One virtqueue as a driver sees it. */
export class FakeDriver implements RingDriver {
  readonly size: number;
  readonly descGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
  readonly eventIdx: boolean;
  /** Free-running index of the next avail entry, as the honest path counts it. */
  nextAvail: number;
  /** Free-running index of the next used entry to take. */
  lastUsed: number;
  private published: number;
  private readonly free: number[];
  private readonly inFlight = new Map<number, InFlight>();

  /** Places an empty ring of `size` entries in guest memory; `base` is the index both rings start from. */
  constructor(
    readonly ram: GuestRam,
    options: RingPlace,
  ) {
    const { size, eventIdx, base = 0, region } = options;
    this.size = size;
    this.eventIdx = eventIdx;
    this.descGpa = options.descGpa ?? ram.allocate(16 * size, 16, region);
    this.availGpa = options.availGpa ?? ram.allocate(6 + 2 * size, 2, region);
    this.usedGpa = options.usedGpa ?? ram.allocate(6 + 8 * size, 4, region);
    ram.bytes(this.descGpa, 16 * size).fill(0);
    ram.bytes(this.availGpa, 6 + 2 * size).fill(0);
    ram.bytes(this.usedGpa, 6 + 8 * size).fill(0);
    this.nextAvail = this.published = this.lastUsed = base;
    ram.storeU16(this.availGpa + 2, base);
    ram.storeU16(this.usedGpa + 2, base);
    // What the device that served the ring up to `base` would have left there.
    ram.storeU16(this.usedGpa + 4 + 8 * size, base);
    this.free = Array.from({ length: size }, (_, index) => size - 1 - index);
  }

  /** Chains the device still has. */
  get inFlightCount(): number {
    return this.inFlight.size;
  }

  get freeDescriptors(): number {
    return this.free.length;
  }

  /** Takes a free descriptor off the honest path, for a test that builds a chain by hand. */
  takeDescriptor(): number {
    const index = this.free.pop();
    if (index === undefined) throw new Error('the fake driver has no descriptor left');
    return index;
  }

  /**
   * Builds a chain and puts its head in the avail ring, unseen by the device until `publish`.
   *
   * With `indirectAfter` = k the first k segments are direct descriptors and one indirect table holds the rest
   * (virtio 1.2 §2.7.5.3.2 allows any k).
   */
  submit(segments: readonly Segment[], options: { indirectAfter?: number | undefined } = {}): number {
    const directCount = Math.min(options.indirectAfter ?? segments.length, segments.length);
    const direct = segments.slice(0, directCount);
    const indirect = segments.slice(directCount);
    const count = direct.length + (indirect.length > 0 ? 1 : 0);
    if (count === 0 || count > this.free.length)
      throw new Error(`no room for a chain of ${count} descriptors`);
    const descriptors = Array.from({ length: count }, () => this.takeDescriptor());

    const chain: InFlight = { descriptors, writableBytes: 0 };
    for (const { writable, lengthBytes } of segments) if (writable) chain.writableBytes += lengthBytes;
    const flagsOf = ({ writable }: Segment, last: boolean) =>
      (writable ? DESC.WRITE : 0) | (last ? 0 : DESC.NEXT);

    direct.forEach((segment, i) => {
      const last = i === count - 1;
      this.writeDescriptor(descriptors[i]!, {
        ...segment,
        flags: flagsOf(segment, last),
        next: last ? 0 : descriptors[i + 1]!,
      });
    });
    if (indirect.length > 0) {
      const table = this.ram.allocate(16 * indirect.length, 16);
      chain.indirectTableGpa = table;
      indirect.forEach((segment, i) => {
        const last = i === indirect.length - 1;
        this.writeDescriptorAt(table + 16 * i, {
          ...segment,
          flags: flagsOf(segment, last),
          next: last ? 0 : i + 1,
        });
      });
      this.writeDescriptor(descriptors[count - 1]!, {
        gpa: table,
        lengthBytes: 16 * indirect.length,
        flags: DESC.INDIRECT,
        next: 0,
      });
    }

    const head = descriptors[0]!;
    this.inFlight.set(head, chain);
    this.setAvailEntry(this.nextAvail, head);
    this.nextAvail = (this.nextAvail + 1) & 0xffff;
    return head;
  }

  /** Shows the device what was submitted; true when it wants a kick for it. */
  publish(): boolean {
    const old = this.published;
    this.published = this.nextAvail;
    this.setAvailIdx(this.nextAvail);
    if (this.nextAvail === old) return false;
    if (!this.eventIdx) return (this.ram.loadU16(this.usedGpa) & 1) === 0;
    const event = this.ram.loadU16(this.usedGpa + 4 + 8 * this.size);
    return ((this.nextAvail - event - 1) & 0xffff) < ((this.nextAvail - old) & 0xffff);
  }

  /** Asks for a call at the next used element, or for none. */
  wantCalls(want: boolean): void {
    if (this.eventIdx) this.setUsedEvent(want ? this.lastUsed : this.lastUsed - 1);
    else this.setAvailFlags(want ? 0 : 1);
  }

  /** Takes the next used element and checks it, or `undefined` when there is none. Throws DeviceFault. */
  popUsed(): UsedChain | undefined {
    const pending = (this.usedIdx - this.lastUsed) & 0xffff;
    if (pending === 0) return undefined;
    if (pending > this.inFlight.size)
      throw new DeviceFault(`used index ${pending} ahead with ${this.inFlight.size} chains in flight`);
    const at = this.usedGpa + 4 + 8 * (this.lastUsed & (this.size - 1));
    const head = this.ram.getU32(at);
    const lengthBytes = this.ram.getU32(at + 4);
    const chain = this.inFlight.get(head);
    if (!chain) throw new DeviceFault(`used id ${head} is not in flight`);
    if (lengthBytes > chain.writableBytes)
      throw new DeviceFault(`used length ${lengthBytes} exceeds the ${chain.writableBytes} writable bytes`);
    this.inFlight.delete(head);
    this.free.push(...chain.descriptors);
    if (chain.indirectTableGpa !== undefined) this.ram.free(chain.indirectTableGpa);
    this.lastUsed = (this.lastUsed + 1) & 0xffff;
    return { head, lengthBytes };
  }

  get base(): number {
    return this.lastUsed;
  }

  get baseFromMemory(): number {
    return this.usedIdx;
  }

  get drainedBase(): number {
    return this.nextAvail;
  }

  get hasUsed(): boolean {
    return this.usedIdx !== this.lastUsed;
  }

  /** The used index as the device published it. */
  get usedIdx(): number {
    return this.ram.loadU16(this.usedGpa + 2);
  }

  get usedFlags(): number {
    return this.ram.loadU16(this.usedGpa);
  }

  get availIdx(): number {
    return this.ram.loadU16(this.availGpa + 2);
  }

  writeDescriptor(index: number, descriptor: Descriptor): void {
    this.writeDescriptorAt(this.descGpa + 16 * index, descriptor);
  }

  /** Writes a descriptor anywhere, such as into an indirect table. */
  writeDescriptorAt(at: number, { gpa, lengthBytes, flags, next }: Descriptor): void {
    this.ram.setU64(at, gpa);
    this.ram.setU32(at + 8, lengthBytes);
    this.ram.setU16(at + 12, flags);
    this.ram.setU16(at + 14, next);
  }

  setAvailEntry(slot: number, head: number): void {
    this.ram.setU16(this.availGpa + 4 + 2 * (slot & (this.size - 1)), head);
  }

  setAvailIdx(idx: number): void {
    this.ram.storeU16(this.availGpa + 2, idx);
  }

  setAvailFlags(flags: number): void {
    this.ram.storeU16(this.availGpa, flags);
  }

  setUsedEvent(idx: number): void {
    this.ram.storeU16(this.availGpa + 4 + 2 * this.size, idx);
  }

  /** Puts a head in the avail ring and publishes it with none of the checks of `submit`. */
  offerRaw(head: number): void {
    this.setAvailEntry(this.nextAvail, head);
    this.nextAvail = this.published = (this.nextAvail + 1) & 0xffff;
    this.setAvailIdx(this.nextAvail);
  }
}
