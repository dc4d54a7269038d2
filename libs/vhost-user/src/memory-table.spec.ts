import { closeSync, ftruncateSync, openSync, readdirSync, readSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import { afterEach, describe, expect, it } from 'vitest';
import { MappedMemory, MAX_SPAN_BYTES, MemoryViews, SharedArea } from './memory-table.js';
import type { RegionMessage } from './messages.js';
import { VhostUserError } from './vhost-user-error.js';

const PAGE = 4096;
const U32 = 2 ** 32;

const openDescriptors = () => readdirSync('/proc/self/fd').length;
const memfd = (sizeBytes: number) => check('memfd', native.memfd('guest', sizeBytes));
const region = (more: Partial<RegionMessage> = {}): RegionMessage => ({
  gpa: 0,
  sizeBytes: 2 * PAGE,
  userAddress: 0x7f00_0000_0000,
  mmapOffsetBytes: 0,
  ...more,
});

describe('a front-end’s memory', () => {
  const mapped: MappedMemory[] = [];
  const views: MemoryViews[] = [];
  const map = (regions: RegionMessage[], fds = regions.map(() => memfd(4 * PAGE))) => {
    try {
      const one = MappedMemory.map(regions.map((message, index) => ({ message, fd: fds[index]! })));
      mapped.push(one);
      return one;
    } finally {
      fds.forEach((fd) => closeSync(fd));
    }
  };
  const viewsOf = (one: MappedMemory) => {
    const made = new MemoryViews(one.layout);
    views.push(made);
    return made;
  };
  const faultOf = (regions: RegionMessage[], fds?: number[]): string | undefined => {
    try {
      map(regions, fds);
      return undefined;
    } catch (error) {
      if (error instanceof VhostUserError) return error.fault;
      throw error;
    }
  };

  afterEach(() => {
    for (const one of views.splice(0)) one.endAll();
    for (const one of mapped.splice(0)) one.unmap();
  });

  it('is refused when address space runs out, and ordinary memory of others is not', () => {
    const great = () => faultOf([region(), region({ gpa: MAX_SPAN_BYTES - 2 * PAGE, userAddress: 0x1000 })]);
    for (let count = 0; count < 8; count += 1) expect(great()).toBeUndefined();
    expect(great()).toBe('memory-spans-exhausted');
    expect(faultOf([region()])).toBeUndefined();
    mapped.shift()!.unmap();
    expect(great()).toBeUndefined();
  });

  it('takes one SIGBUS guard for regions in pages of one size, however many they are', () => {
    const nextGuard = (): number => {
      const slot = check('guard', native.guardAdd(2 ** 46, PAGE, PAGE));
      native.guardRemove(slot);
      return slot;
    };
    const before = nextGuard();
    map(
      Array.from({ length: 64 }, (_, index) =>
        region({ gpa: index * 4 * PAGE, userAddress: 0x7f00_0000_0000 + index * 4 * PAGE }),
      ),
    );
    expect(nextGuard()).toBe(before + 1);
  });

  it('is mapped linearly, each region at its guest physical address', () => {
    const fds = [memfd(2 * PAGE), memfd(4 * PAGE)];
    const [low, high] = fds.map((fd) => native.view(native.mapShared(fd, 0, 2 * PAGE), 2 * PAGE));
    const one = map(
      [
        region(),
        region({ gpa: U32 + 8 * PAGE, userAddress: 0x1000, sizeBytes: PAGE, mmapOffsetBytes: PAGE }),
      ],
      fds,
    );
    const { memory } = viewsOf(one);
    const { baseAddress } = one.layout;
    expect(baseAddress % U32).toBe(0);
    memory.writeByte(5, 0, 0x11);
    memory.writeByte(8 * PAGE + 6, 1, 0x22);
    expect(new Uint8Array(low!)[5]).toBe(0x11);
    expect(new Uint8Array(high!)[PAGE + 6]).toBe(0x22);
    expect(memory.addressOf(8 * PAGE, 1)).toBe(baseAddress + U32 + 8 * PAGE);
  });

  it('leaves the descriptors to their owner, whether it maps or refuses', () => {
    const before = openDescriptors();
    map([region(), region({ gpa: 8 * PAGE, userAddress: 0 })]);
    expect(faultOf([region(), region()])).toBe('memory-regions-overlap');
    expect(faultOf([])).toBe('descriptor-count-invalid');
    expect(openDescriptors()).toBe(before);
  });

  it('is named by its address, which no other mapping of the process has, on whatever thread it was made', () => {
    const [one, other] = [map([region()]), map([region()])];
    expect(one.layout.baseAddress).not.toBe(other.layout.baseAddress);
    expect(Object.keys(one.layout).toSorted()).toEqual(['baseAddress', 'runs']);
  });

  it('finds the guest physical address of a user address inside one region, to the last byte', () => {
    const one = map([
      region({ gpa: 16 * PAGE, userAddress: 0x5000 }),
      region({ gpa: 32 * PAGE, userAddress: 0x5000 + 2 * PAGE }),
    ]);
    expect(one.gpaOf(0x5000, 2 * PAGE)).toBe(16 * PAGE);
    expect(one.gpaOf(0x5000 + 2 * PAGE - 1, 1)).toBe(18 * PAGE - 1);
    expect(one.gpaOf(0x5000 + 2 * PAGE, 8)).toBe(32 * PAGE);
    expect(one.gpaOf(0x5000 + 2 * PAGE - 1, 2)).toBeUndefined();
    expect(one.gpaOf(0x4fff, 1)).toBeUndefined();
    expect(one.gpaOf(0x5000 + 4 * PAGE, 1)).toBeUndefined();
  });

  it.each([
    { name: 'an empty region', more: { sizeBytes: 0 } },
    { name: 'a misaligned guest address', more: { gpa: 1 } },
    { name: 'a misaligned offset', more: { mmapOffsetBytes: 512 } },
    { name: 'a region past the end of its file', more: { sizeBytes: 5 * PAGE } },
    { name: 'an offset past the end of its file', more: { mmapOffsetBytes: 3 * PAGE } },
    { name: 'a guest address near 2^53', more: { gpa: 2 ** 53 - PAGE } },
    { name: 'a user address that ends past 2^53', more: { userAddress: 2 ** 53 - PAGE } },
    { name: 'a region of 256 GiB in a file of 16 KiB', more: { sizeBytes: 2 ** 38 } },
  ])('refuses $name', ({ more }) => {
    expect(faultOf([region(more)])).toBe('memory-region-invalid');
  });

  it('takes regions that span exactly 4 TiB, and none that span more', () => {
    const upTo = (end: number) => faultOf([region(), region({ gpa: end - 2 * PAGE, userAddress: 0x1000 })]);
    expect(upTo(MAX_SPAN_BYTES)).toBeUndefined();
    expect(upTo(MAX_SPAN_BYTES + PAGE)).toBe('memory-region-invalid');
  });

  it('is mapped as it lies when it begins far up, where a process has its own memory', () => {
    const start = 0x7f12_3456_7000;
    const fds = [memfd(4 * PAGE), memfd(4 * PAGE)];
    const seen = new Uint8Array(native.view(native.mapShared(fds[1]!, 0, PAGE), PAGE));
    const one = map(
      [region({ gpa: start, userAddress: start }), region({ gpa: start + U32, userAddress: start + U32 })],
      fds,
    );
    const { memory } = viewsOf(one);
    const [low, high] = [(start + U32) % U32, Math.floor((start + U32) / U32)];
    expect(memory.contains(low, high, 2 * PAGE)).toBe(true);
    expect(memory.contains(low, high, 2 * PAGE + 1)).toBe(false);
    expect(memory.contains(low, 0, 1)).toBe(false);
    memory.writeByte(low + 7, high, 0x33);
    memory.write(low + 8, high, Uint8Array.of(0x44));
    expect([seen[7], seen[8]]).toEqual([0x33, 0x44]);
    native.peek(memory.addressOf(low, high) + 7, seen, 100, 1);
    expect(seen[100]).toBe(0x33);
  });

  it('may end amid a page, and is believed to its end', () => {
    const fds = [memfd(PAGE + 100)];
    const one = map([region({ sizeBytes: PAGE + 100 })], fds);
    const { memory } = viewsOf(one);
    memory.writeByte(PAGE + 99, 0, 1);
    expect(memory.contains(PAGE, 0, 100)).toBe(true);
    expect(memory.contains(PAGE, 0, 101)).toBe(false);
    expect(one.gpaOf(0x7f00_0000_0000 + PAGE, 101)).toBeUndefined();
  });

  it.each([
    { name: 'guest addresses', second: { userAddress: 0, gpa: PAGE } },
    { name: 'user addresses', second: { gpa: 64 * PAGE, userAddress: 0x7f00_0000_0000 - PAGE } },
    { name: 'guest addresses, one inside the other', second: { userAddress: 0, sizeBytes: PAGE } },
  ])('refuses overlapping $name, in either order', ({ second }) => {
    expect(faultOf([region(), region(second)])).toBe('memory-regions-overlap');
    expect(faultOf([region(second), region()])).toBe('memory-regions-overlap');
  });

  it.each([
    { name: 'an eventfd', open: () => check('eventfd', native.eventfd(EFD_NONBLOCK)) },
    { name: 'a device', open: () => openSync('/dev/zero', 'r+') },
    { name: 'a directory', open: () => openSync(tmpdir(), 'r') },
  ])('refuses $name', ({ open }) => {
    expect(faultOf([region()], [open()])).toBe('descriptor-type-invalid');
  });

  it('refuses a file that it may not write', () => {
    const fd = memfd(4 * PAGE);
    const readOnly = openSync(`/proc/self/fd/${fd}`, 'r');
    closeSync(fd);
    expect(faultOf([region()], [readOnly])).toBe('memory-map-failed');
  });

  it('leaves no mapping and no guard when a later region is refused', () => {
    const spans = () => native.guardAdd(PAGE, PAGE, PAGE);
    const slot = spans();
    native.guardRemove(slot);
    const fd = memfd(4 * PAGE);
    const readOnly = openSync(`/proc/self/fd/${fd}`, 'r');
    closeSync(fd);
    expect(faultOf([region(), region({ gpa: 64 * PAGE, userAddress: 0 })], [memfd(4 * PAGE), readOnly])).toBe(
      'memory-map-failed',
    );
    const after = spans();
    native.guardRemove(after);
    expect(after).toBe(slot);
  });

  it('ends every view of a thread: what is left of one has length 0', () => {
    const one = viewsOf(map([region()]));
    const view = one.memory.view(0, 64);
    const bytes = new Uint8Array(view);
    one.memory.writeByte(0, 0, 7);
    expect(bytes[0]).toBe(7);
    one.endAll();
    expect(view.byteLength).toBe(0);
    expect(bytes[0]).toBeUndefined();
  });

  it('ends one view early, and does not mind when it is ended twice', () => {
    const one = viewsOf(map([region()]));
    const [first, second] = [one.memory.view(0, 64), one.memory.view(0, 64)];
    one.end(first);
    one.end(first);
    expect([first.byteLength, second.byteLength]).toEqual([0, 64]);
  });

  it('shows all threads the same bytes', () => {
    const one = map([region()]);
    const [here, there] = [viewsOf(one), viewsOf(one)];
    here.memory.writeByte(9, 0, 5);
    const byte = new Uint8Array(1);
    there.memory.read(9, 0, byte);
    expect(byte[0]).toBe(5);
  });

  it('survives that the front-end takes the memory away, and knows it', () => {
    const fd = memfd(4 * PAGE);
    const kept = openSync(`/proc/self/fd/${fd}`, 'r+');
    const one = map([region({ sizeBytes: 4 * PAGE })], [fd]);
    const other = map([region({ gpa: 64 * PAGE })]);
    const bytes = new Uint8Array(viewsOf(one).memory.view(0, 4 * PAGE));
    bytes.fill(0xaa);
    ftruncateSync(kept, PAGE);
    closeSync(kept);
    expect(one.faulted).toBe(false);
    expect(bytes[0]).toBe(0xaa);
    expect(bytes[3 * PAGE]).toBe(0);
    bytes[2 * PAGE + 1] = 1;
    const copy = new Uint8Array(8);
    native.peek(one.layout.baseAddress + PAGE, copy, 0, 8);
    expect([...copy]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
    expect(one.faulted).toBe(true);
    expect(other.faulted).toBe(false);
  });

  it('does not remember the faults of memory that was there before', () => {
    const fd = memfd(PAGE);
    const kept = openSync(`/proc/self/fd/${fd}`, 'r+');
    const one = map([region({ sizeBytes: PAGE })], [fd]);
    ftruncateSync(kept, 0);
    closeSync(kept);
    const { memory } = viewsOf(one);
    memory.writeByte(0, 0, 1);
    expect(one.faulted).toBe(true);
    for (const left of views.splice(0)) left.endAll();
    mapped.splice(mapped.indexOf(one), 1);
    one.unmap();
    expect(map([region()]).faulted).toBe(false);
  });
});

describe('a shared area', () => {
  const faultOf = (fd: number, offsetBytes: number, sizeBytes: number): string | undefined => {
    try {
      SharedArea.map(fd, offsetBytes, sizeBytes).unmap();
      return undefined;
    } catch (error) {
      if (error instanceof VhostUserError) return error.fault;
      throw error;
    }
  };

  it('shows the file from any offset on, and closes its descriptor', () => {
    const before = openDescriptors();
    const fd = memfd(2 * PAGE);
    const kept = openSync(`/proc/self/fd/${fd}`, 'r+');
    const area = SharedArea.map(fd, PAGE + 64, 128);
    native.poke(area.address, Uint8Array.of(9), 0, 1);
    const byte = new Uint8Array(1);
    readSync(kept, byte, 0, 1, PAGE + 64);
    closeSync(kept);
    area.unmap();
    expect(byte[0]).toBe(9);
    expect(openDescriptors()).toBe(before);
  });

  it.each([
    { name: 'nothing', offset: 0, size: 0 },
    { name: 'more than the file has', offset: PAGE, size: PAGE + 1 },
    { name: 'an offset past the end', offset: 4 * PAGE, size: 1 },
  ])('is refused when it is $name', ({ offset, size }) => {
    const before = openDescriptors();
    expect(faultOf(memfd(2 * PAGE), offset, size)).toBe('memory-region-invalid');
    expect(openDescriptors()).toBe(before);
  });

  it('is refused when it is no file', () => {
    expect(faultOf(check('eventfd', native.eventfd(0)), 0, 8)).toBe('descriptor-type-invalid');
  });
});

describe('an area that a front-end shares', () => {
  it('starts at any offset, and knows when the front-end takes it away', () => {
    const fd = memfd(4 * PAGE);
    const kept = openSync(`/proc/self/fd/${fd}`, 'r+');
    const area = SharedArea.map(fd, PAGE + 24, PAGE);
    const view = native.view(area.address, area.sizeBytes);
    const bytes = new Uint8Array(view);
    bytes[0] = 7;
    const file = native.view(native.mapShared(kept, 0, 2 * PAGE), 2 * PAGE);
    expect(new Uint8Array(file)[PAGE + 24]).toBe(7);
    expect(area.faulted).toBe(false);
    ftruncateSync(kept, 0);
    closeSync(kept);
    bytes[1] = 1;
    expect(area.faulted).toBe(true);
    native.detach(view);
    area.unmap();
  });
});
