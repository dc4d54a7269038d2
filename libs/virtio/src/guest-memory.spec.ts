import { afterEach, describe, expect, it } from 'vitest';
import { DeviceMemory, GuestRam, type RamRegionSpec } from './testing/index.js';

const PAGE = 4096;
const WINDOW = 16 * 2 ** 20;
const U32 = 2 ** 32;

describe('guest memory', () => {
  let ram: GuestRam;
  let device: DeviceMemory;

  const open = (...regions: RamRegionSpec[]) => {
    ram = new GuestRam(regions);
    device = new DeviceMemory(ram);
    return device.memory;
  };
  const contains = (gpa: number, lengthBytes: number) =>
    device.memory.contains(gpa % U32, Math.floor(gpa / U32), lengthBytes);

  afterEach(() => {
    device.close();
    ram.close();
  });

  it('contains a run from its first byte to its last and nothing around it', () => {
    open({ gpa: 4 * PAGE, sizeBytes: 2 * PAGE });
    expect(contains(4 * PAGE, 2 * PAGE)).toBe(true);
    expect(contains(6 * PAGE - 1, 1)).toBe(true);
    expect(contains(4 * PAGE - 1, 1)).toBe(false);
    expect(contains(4 * PAGE - 1, 2)).toBe(false);
    expect(contains(6 * PAGE - 1, 2)).toBe(false);
    expect(contains(6 * PAGE, 1)).toBe(false);
  });

  it('merges runs that touch, in whatever order they come, and lets a range lie across the seam', () => {
    open(
      { gpa: 3 * PAGE, sizeBytes: PAGE },
      { gpa: 1 * PAGE, sizeBytes: PAGE },
      { gpa: 2 * PAGE, sizeBytes: PAGE },
    );
    expect(contains(PAGE, 3 * PAGE)).toBe(true);
    expect(contains(PAGE, 3 * PAGE + 1)).toBe(false);
  });

  it('does not let a range lie across a hole of one page', () => {
    open({ gpa: 0, sizeBytes: PAGE }, { gpa: 2 * PAGE, sizeBytes: PAGE });
    expect(contains(PAGE - 8, 16)).toBe(false);
    expect(contains(0, 3 * PAGE)).toBe(false);
    expect(contains(PAGE, 1)).toBe(false);
    expect(contains(2 * PAGE, PAGE)).toBe(true);
  });

  it('contains nothing at addresses that no double holds exactly, whatever the length', () => {
    const memory = open({ gpa: 0, sizeBytes: PAGE });
    expect(memory.contains(0xffffffff, 0xffffffff, 1)).toBe(false);
    expect(memory.contains(0xffffffff, 0xffffffff, 0xffffffff)).toBe(false);
    expect(memory.contains(0, 0x80000000, 16)).toBe(false);
    expect(memory.contains(PAGE - 1, 0, 0xffffffff)).toBe(false);
  });

  it('gives the process address of a range as its own low word and the high word plus a constant', () => {
    const memory = open({ gpa: U32 + PAGE, sizeBytes: PAGE });
    expect(Number.isInteger(memory.baseHigh)).toBe(true);
    expect(memory.addressOf(PAGE + 5, 1)).toBe((memory.baseHigh + 1) * U32 + PAGE + 5);
  });

  it('reads and writes what the driver wrote and reads, at any alignment', () => {
    const memory = open({ gpa: 0, sizeBytes: PAGE });
    ram.bytes(3, 5).set([1, 2, 3, 4, 5]);
    const out = new Uint8Array(5);
    memory.read(3, 0, out);
    expect([...out]).toEqual([1, 2, 3, 4, 5]);
    memory.write(PAGE - 3, 0, Uint8Array.of(7, 8, 9));
    expect([...ram.bytes(PAGE - 3, 3)]).toEqual([7, 8, 9]);
    memory.writeByte(17, 0, 0xab);
    expect(ram.bytes(17, 1)[0]).toBe(0xab);
  });

  it('copies across the seam of two regions and across two windows', () => {
    const memory = open(
      { gpa: WINDOW - PAGE, sizeBytes: PAGE },
      { gpa: WINDOW, sizeBytes: PAGE, mmapOffsetBytes: PAGE },
    );
    const pattern = Uint8Array.from({ length: 32 }, (_, index) => index + 1);
    memory.write(WINDOW - 15, 0, pattern);
    expect([...ram.bytes(WINDOW - 15, 15)]).toEqual([...pattern.subarray(0, 15)]);
    expect([...ram.bytes(WINDOW, 17)]).toEqual([...pattern.subarray(15)]);
    const out = new Uint8Array(32);
    memory.read(WINDOW - 15, 0, out);
    expect([...out]).toEqual([...pattern]);
  });

  it('reads and writes above 4 GiB at the same low word without mixing the two up', () => {
    const memory = open({ gpa: 0, sizeBytes: PAGE }, { gpa: 3 * U32, sizeBytes: PAGE });
    memory.writeByte(9, 0, 1);
    memory.writeByte(9, 3, 2);
    expect(ram.bytes(9, 1)[0]).toBe(1);
    expect(ram.bytes(3 * U32 + 9, 1)[0]).toBe(2);
  });

  it('makes windows of 16 MiB, on first use, cut where memory ends', () => {
    const memory = open({ gpa: 0, sizeBytes: PAGE }, { gpa: WINDOW + PAGE, sizeBytes: PAGE });
    expect(device.views).toEqual([]);
    memory.writeByte(0, 0, 1);
    memory.writeByte(8, 0, 1);
    memory.writeByte(WINDOW + PAGE, 0, 1);
    expect(device.views).toEqual([
      { gpa: 0, lengthBytes: WINDOW },
      { gpa: WINDOW, lengthBytes: 2 * PAGE },
    ]);
  });

  it('gives words in place only where the range is aligned and stays inside one window', () => {
    const memory = open({ gpa: WINDOW - PAGE, sizeBytes: 2 * PAGE });
    ram.setU32(WINDOW - 16, 0xfeedface);
    expect(memory.wordsAt(WINDOW - 16, 0, 16)![memory.wordIndex(WINDOW - 16)]).toBe(0xfeedface);
    expect(memory.wordsAt(WINDOW - 16, 0, 17)).toBeUndefined();
    expect(memory.wordsAt(WINDOW - 14, 0, 8)).toBeUndefined();
  });
});
