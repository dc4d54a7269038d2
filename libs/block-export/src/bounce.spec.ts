import { check, native } from '@cairn/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DeviceShard } from './device-shard.js';
import { BOUNCE_BYTES, BounceBuffer } from './bounce.js';
import { RequestSlots, SLOT } from './request-slots.js';

const U32 = 2 ** 32;

describe('a bounce buffer', () => {
  let bounce: BounceBuffer;

  beforeEach(() => {
    bounce = BounceBuffer.make(4095)!;
  });
  afterEach(() => bounce.close());

  const framed = (offsetBytes: number, remainingBytes: number) => {
    bounce.frame(offsetBytes, remainingBytes);
    const { start, length, skip, count, partial } = bounce;
    return { start, length, skip, count, partial };
  };

  it('lies aligned, with room for a step that is aligned at neither end', () => {
    expect(bounce.addressLow % 4096).toBe(0);
    expect(bounce.addressHigh * U32 + bounce.addressLow).toBe(native.addressOf(bounce.bytes));
    bounce.frame(4095, BOUNCE_BYTES);
    expect(bounce.length).toBeLessThanOrEqual(bounce.bytes.length);
  });

  it.each([
    // offset, bytes left → first block, whole blocks, place in them, bytes of this step
    { at: [0, 4096], start: 0, length: 4096, skip: 0, count: 4096, partial: false },
    { at: [512, 512], start: 0, length: 4096, skip: 512, count: 512, partial: true },
    { at: [0, 512], start: 0, length: 4096, skip: 0, count: 512, partial: true },
    { at: [3584, 512], start: 0, length: 4096, skip: 3584, count: 512, partial: true },
    { at: [3584, 1024], start: 0, length: 8192, skip: 3584, count: 1024, partial: true },
    { at: [8192, 12288], start: 8192, length: 12288, skip: 0, count: 12288, partial: false },
    { at: [2 ** 40 + 512, 4096], start: 2 ** 40, length: 8192, skip: 512, count: 4096, partial: true },
  ])('frames $at as whole blocks', ({ at: [offset, left], ...frame }) => {
    expect(framed(offset!, left!)).toEqual(frame);
  });

  it('takes at most 1 MiB in one step, so that the next one begins aligned or not as this one did', () => {
    expect(framed(0, 3 * BOUNCE_BYTES)).toMatchObject({ count: BOUNCE_BYTES, partial: false });
    expect(framed(512, 3 * BOUNCE_BYTES)).toEqual({
      start: 0,
      length: BOUNCE_BYTES + 4096,
      skip: 512,
      count: BOUNCE_BYTES,
      partial: true,
    });
  });

  it('copies between its step and the guest’s scattered bytes, and touches no others', () => {
    const guest = check('mmap', native.mapShared(-1, 0, 4096));
    const view = native.view(guest, 4096);
    const bytes = new Uint8Array(view);
    const slots = new RequestSlots(1);
    const slot = slots.take({} as DeviceShard, undefined, SLOT.WRITE);
    const list = slots.listFor(slot, 3)!;
    const entry = (index: number, at: number, length: number) =>
      list.set([(guest + at) % U32, Math.floor((guest + at) / U32), length, 0], 4 * index);
    entry(0, 0, 64); // done before: `first` is past it
    entry(1, 101, 3);
    entry(2, 200, 512);
    slots.first[slot] = 1;
    bytes.fill(1);
    bytes.set([7, 8, 9], 101);
    bytes.fill(5, 200, 209);

    bounce.bytes.fill(0xee);
    bounce.frame(512, 12);
    bounce.copy(slots, slot, 'from-guest');
    expect([...bounce.bytes.subarray(511, 525)]).toEqual([0xee, 7, 8, 9, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0xee]);

    bounce.bytes.fill(0x33);
    bounce.copy(slots, slot, 'to-guest');
    expect([...bytes.subarray(100, 105)]).toEqual([1, 0x33, 0x33, 0x33, 1]);
    expect([...bytes.subarray(199, 210)]).toEqual([1, ...Array.from({ length: 9 }, () => 0x33), 1]);
    expect(bytes[0]).toBe(1);
    slots.close();
    native.detach(view);
    native.unmap(guest, 4096);
  });
});
