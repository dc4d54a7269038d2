import { check, native } from '@cairn/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DirtyLog, type LoggedPart } from './dirty-log.js';

const PAGE = 4096;
const BASE = 8 * 2 ** 32; // where guest physical address 0 is mapped
const HIGH = 8;

describe('the log of dirty pages', () => {
  let address: number;
  let bits: Uint8Array;

  beforeEach(() => {
    address = check('mmap', native.mapShared(-1, 0, PAGE));
    bits = new Uint8Array(native.view(address, PAGE));
  });
  afterEach(() => {
    native.detach(bits.buffer as ArrayBuffer);
    native.unmap(address, PAGE);
  });

  const open = (ring: LoggedPart[] = [], sizeBytes = PAGE) =>
    new DirtyLog({ address, sizeBytes }, BASE, ring);
  const marked = () =>
    [...bits].flatMap((byte, at) =>
      [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => byte & (1 << bit)).map((bit) => at * 8 + bit),
    );

  it('marks each page that an answer and its status byte touch, to the last byte', () => {
    const log = open();
    log.remember(
      3,
      Uint32Array.of(2 * PAGE - 1, HIGH, 2, 0, 20 * PAGE, HIGH, PAGE, 0, 99 * PAGE, HIGH, 1, 0),
      2,
    );
    expect(marked()).toEqual([]);
    log.completed(3, 9 * PAGE + 8, 0);
    expect(marked()).toEqual([1, 2, 9, 20]);
    log.close();
  });

  it('does not mark the data of a request before, in the same slot', () => {
    const log = open();
    log.remember(0, Uint32Array.of(PAGE, HIGH, 1, 0), 1);
    log.completed(0, 0, 0);
    bits.fill(0);
    log.completed(0, 5 * PAGE, 0);
    expect(marked()).toEqual([5]);
    log.close();
  });

  it('marks every part that a publication writes, which for a packed ring are two', () => {
    const log = open([
      { gpa: 3 * PAGE, lengthBytes: 4 },
      { gpa: 7 * PAGE, lengthBytes: PAGE + 1 },
    ]);
    log.published();
    expect(marked()).toEqual([3, 7, 8]);
    log.close();
  });

  it('pays no heed to pages past its end', () => {
    const log = open([{ gpa: 7 * PAGE, lengthBytes: 2 * PAGE }], 1);
    log.published();
    log.completed(0, 0, 1);
    expect(marked()).toEqual([7]);
    log.close();
  });
});
