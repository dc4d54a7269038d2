import { BLK_TYPE, FakeDriver, type Segment } from '@cairn/virtio/testing';
import { isPacked } from './broken-rule.js';
import type { ModelGuest } from './model-guest.js';
import type { RawRing } from './raw-ring.js';

/** The descriptors of a chain as they lie in guest memory, in order; their fields can be changed until `publish`. */
export class Chain {
  constructor(
    private readonly guest: ModelGuest,
    private readonly at: readonly number[],
  ) {}

  get length(): number {
    return this.at.length;
  }

  setAddress(index: number, gpa: number | bigint): void {
    this.guest.raw.ram.setU64(this.at[index]!, gpa);
  }

  setLength(index: number, lengthBytes: number): void {
    this.guest.raw.ram.setU32(this.at[index]! + 8, lengthBytes);
  }

  /** Not of the first descriptor of a packed chain: its flags are written when the chain is published. */
  flipFlags(index: number, flags: number): void {
    const at = this.at[index]! + (isPacked(this.guest) ? 14 : 12);
    this.guest.raw.ram.setU16(at, this.guest.raw.ram.getU16(at) ^ flags);
  }

  /** Follow-up descriptor of a split chain, buffer id of a packed one. */
  setNextOrId(index: number, value: number): void {
    this.guest.raw.ram.setU16(this.at[index]! + (isPacked(this.guest) ? 12 : 14), value);
  }

  nextOrId(index: number): number {
    return this.guest.raw.ram.getU16(this.at[index]! + (isPacked(this.guest) ? 12 : 14));
  }
}

const pieces = ({ raw }: ModelGuest, type: number): Segment[] =>
  type === BLK_TYPE.OUT
    ? raw.place(type, 0, { out: new Uint8Array(512) })
    : raw.place(type, 0, { inBytes: 512 });

/** Submits a direct chain of three descriptors (header, data, status), not yet shown to the device. */
export const directChain = async (
  guest: ModelGuest,
  ring: RawRing,
  type: number = BLK_TYPE.IN,
): Promise<Chain> => {
  await guest.roomFor(ring, 4);
  const { driver } = ring;
  if (driver instanceof FakeDriver) {
    const { head } = guest.raw.submit(ring.index, pieces(guest, type), { show: false });
    const at = [driver.descGpa + 16 * head];
    for (let index = 0; index < 2; index += 1)
      at.push(driver.descGpa + 16 * guest.raw.ram.getU16(at[index]! + 14));
    return new Chain(guest, at);
  }
  const { slot } = driver.nextAvail;
  guest.raw.submit(ring.index, pieces(guest, type), { show: false });
  return new Chain(
    guest,
    [0, 1, 2].map((index) => driver.descGpa + 16 * ((slot + index) % driver.size)),
  );
};

/** Submits the same in an indirect table; the chain is the table's entries, `outer` the one that points there. */
export const tableChain = async (
  guest: ModelGuest,
  ring: RawRing,
): Promise<{ outer: Chain; entries: Chain }> => {
  await guest.roomFor(ring, 1);
  const { driver } = ring;
  const slot = driver instanceof FakeDriver ? undefined : driver.nextAvail.slot;
  const { head } = guest.raw.submit(ring.index, pieces(guest, BLK_TYPE.IN), {
    indirectAfter: 0,
    show: false,
  });
  const outer = driver.descGpa + 16 * (slot ?? head);
  const { ram } = guest.raw;
  const table = ram.getU32(outer) + ram.getU32(outer + 4) * 2 ** 32;
  return {
    outer: new Chain(guest, [outer]),
    entries: new Chain(
      guest,
      [0, 16, 32].map((at) => table + at),
    ),
  };
};
