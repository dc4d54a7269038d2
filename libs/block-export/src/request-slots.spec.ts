import { native } from '@cairn/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DeviceShard } from './device-shard.js';
import { RequestSlots, SLOT, SLOT_SEGMENTS, SOLE } from './request-slots.js';

const U32 = 2 ** 32;

describe('the slots of requests in flight', () => {
  const device = {} as DeviceShard;
  let slots: RequestSlots;

  beforeEach(() => {
    slots = new RequestSlots(4);
  });
  afterEach(() => slots.close());

  /** A transfer over segments of [address, bytes]. */
  const transfer = (...segments: [address: number, bytes: number][]) => {
    const slot = slots.take(device, undefined, SLOT.READ);
    const list = slots.listFor(slot, segments.length)!;
    segments.forEach(([address, bytes], index) =>
      list.set([address % U32, Math.floor(address / U32), bytes, 0], 4 * index),
    );
    slots.first[slot] = 0;
    slots.segments[slot] = segments.length;
    slots.offset[slot] = 2 ** 33;
    slots.remaining[slot] = segments.reduce((sum, [, bytes]) => sum + bytes, 0);
    return slot;
  };
  const left = (slot: number) =>
    Array.from({ length: slots.segments[slot]! }, (_, index) => {
      const at = 4 * (slots.first[slot]! + index);
      const list = slots.list(slot);
      return [list[at + 1]! * U32 + list[at]!, list[at + 2]!];
    });
  const addressOfList = (slot: number) => slots.listHigh(slot) * U32 + slots.listLow(slot);
  /** What the kernel would read at the address that it is given. */
  const kernelSees = (slot: number) => {
    const bytes = new Uint8Array(16);
    native.peek(addressOfList(slot), bytes, 0, 16);
    return [...new Uint32Array(bytes.buffer)];
  };

  it('gives each slot once until it is released', () => {
    const taken = [1, 2, 3, 4].map(() => slots.take(device, undefined, SLOT.FLUSH));
    expect(taken.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3]);
    expect(slots.available).toBe(0);
    slots.release(taken[2]!);
    expect(slots.available).toBe(1);
    expect(slots.shard[taken[2]!]).toBeUndefined();
    expect(slots.take(device, undefined, SLOT.READ)).toBe(taken[2]);
  });

  it('has the scatter list where the kernel is told to look', () => {
    const slot = transfer([0x1_2345_6000, 512], [0x7fff_0000_0000, 1024]);
    expect(kernelSees(slot)).toEqual([0x2345_6000, 1, 512, 0]);
    slots.advance(slot, 512);
    expect(kernelSees(slot)).toEqual([0, 0x7fff, 1024, 0]);
  });

  it('does not mix the lists of two slots up', () => {
    const [first, second] = [transfer([0x1000, 1]), transfer([0x2000, 2])];
    expect(left(first)).toEqual([[0x1000, 1]]);
    expect(left(second)).toEqual([[0x2000, 2]]);
    expect(Math.abs(addressOfList(first) - addressOfList(second))).toBeGreaterThanOrEqual(SLOT_SEGMENTS * 16);
  });

  it('advances inside an entry, to its end, over several, and to the end of all', () => {
    const slot = transfer([0x1000, 100], [0x2000, 10], [0x3000, 10], [0x4000, 50]);
    slots.advance(slot, 30);
    expect(left(slot)).toEqual([
      [0x101e, 70],
      [0x2000, 10],
      [0x3000, 10],
      [0x4000, 50],
    ]);
    slots.advance(slot, 70);
    expect(left(slot)).toEqual([
      [0x2000, 10],
      [0x3000, 10],
      [0x4000, 50],
    ]);
    slots.advance(slot, 25);
    expect(left(slot)).toEqual([[0x4005, 45]]);
    expect([slots.offset[slot], slots.remaining[slot]]).toEqual([2 ** 33 + 125, 45]);
    slots.advance(slot, 45);
    expect(left(slot)).toEqual([]);
    expect(slots.remaining[slot]).toBe(0);
  });

  it('does not move by nothing', () => {
    const slot = transfer([0x1000, 100]);
    slots.advance(slot, 0);
    expect(left(slot)).toEqual([[0x1000, 100]]);
  });

  it('carries into the high word when an entry is advanced past a 4 GiB border', () => {
    const slot = transfer([5 * U32 - 16, 64]);
    slots.advance(slot, 16);
    expect(left(slot)).toEqual([[5 * U32, 48]]);
    slots.advance(slot, 1);
    expect(left(slot)).toEqual([[5 * U32 + 1, 47]]);
    const other = transfer([5 * U32 - 16, 64]);
    slots.advance(other, 20);
    expect(left(other)).toEqual([[5 * U32 + 4, 44]]);
  });

  it('advances in an entry of nearly 4 GiB', () => {
    const slot = transfer([0x1_0000_0000, 0xffff_fe00]);
    slots.advance(slot, 0x8000_0000);
    expect(left(slot)).toEqual([[0x1_8000_0000, 0x7fff_fe00]]);
    expect(slots.remaining[slot]).toBe(0x7fff_fe00);
  });

  it('moves in the one piece of a request without a list, past a 4 GiB border, too', () => {
    const slot = slots.take(device, undefined, SLOT.READ);
    slots.first[slot] = SOLE;
    slots.sole.low[slot] = U32 - 512;
    slots.sole.high[slot] = 7;
    slots.offset[slot] = 2 ** 33;
    slots.remaining[slot] = 4096;
    slots.advance(slot, 100);
    expect([slots.sole.low[slot], slots.sole.high[slot]]).toEqual([U32 - 412, 7]);
    slots.advance(slot, 1000);
    expect([slots.sole.low[slot], slots.sole.high[slot]]).toEqual([588, 8]);
    expect([slots.remaining[slot], slots.offset[slot]]).toEqual([2996, 2 ** 33 + 1100]);
  });

  it('gives a list that is too long for its slot memory of its own, and takes it back', () => {
    const many = Array.from({ length: SLOT_SEGMENTS + 1 }, (_, index): [number, number] => [index * 4096, 8]);
    const slot = transfer(...many);
    const long = addressOfList(slot);
    expect(left(slot)).toEqual(many);
    slots.advance(slot, 8 * SLOT_SEGMENTS);
    expect(kernelSees(slot)).toEqual([SLOT_SEGMENTS * 4096, 0, 8, 0]);
    const view = slots.list(slot);
    slots.release(slot);
    expect(view).toHaveLength(0);
    const again = transfer([0x1000, 1]);
    expect(again).toBe(slot);
    expect(addressOfList(again)).not.toBe(long);
    expect(kernelSees(again)).toEqual([0x1000, 0, 1, 0]);
  });

  it('says so when there is no memory for a long list', () => {
    const slot = slots.take(device, undefined, SLOT.READ);
    expect(slots.listFor(slot, 2 ** 46)).toBeUndefined();
    expect(slots.listFor(slot, 1)).toHaveLength(SLOT_SEGMENTS * 4);
  });

  it('ends its views with everything else, long lists included', () => {
    const other = new RequestSlots(2);
    const slot = other.take(device, undefined, SLOT.READ);
    const own = other.list(1 - slot);
    const long = other.listFor(slot, SLOT_SEGMENTS + 1)!;
    other.close();
    expect([own.length, long.length]).toEqual([0, 0]);
  });
});
