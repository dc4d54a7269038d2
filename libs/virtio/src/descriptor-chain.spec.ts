import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DescriptorChain, MAX_CHAIN } from './descriptor-chain.js';
import { DESC, DeviceMemory, FakeDriver, GuestRam, type Descriptor } from './testing/index.js';
import { VirtqueueError } from './virtqueue-error.js';

const GIB = 2 ** 30;
const GPA = GIB - 0x8_0000;
const BYTES = 0x10_0000;
const SIZE = 16;
const BUFFER = GPA;
const TABLE = GPA + 0x1_0000;

describe('a descriptor chain', () => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let driver: FakeDriver;

  beforeEach(() => {
    // One region across the border of two windows.
    ram = new GuestRam([{ gpa: GPA, sizeBytes: BYTES }]);
    device = new DeviceMemory(ram);
    driver = new FakeDriver(ram, { size: SIZE, eventIdx: false, descGpa: GPA + 0x2_0000 });
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const descriptor = (more: Partial<Descriptor> = {}): Descriptor => ({
    gpa: BUFFER,
    lengthBytes: 64,
    flags: 0,
    next: 0,
    ...more,
  });
  const direct = (index: number, more: Partial<Descriptor> = {}) =>
    driver.writeDescriptor(index, descriptor(more));
  const inTable = (index: number, more: Partial<Descriptor> = {}, table = TABLE) =>
    driver.writeDescriptorAt(table + 16 * index, descriptor(more));
  const pointer = (entries: number, more: Partial<Descriptor> = {}) =>
    descriptor({ gpa: TABLE, lengthBytes: 16 * entries, flags: DESC.INDIRECT, ...more });

  const chainOf = (options: { indirect?: boolean; size?: number } = {}) => {
    const { size = SIZE, indirect = true } = options;
    const words = new Uint32Array(device.memory.view(driver.descGpa, 16 * size));
    return new DescriptorChain(device.memory, words, size, { indirect });
  };
  const walk = (head = 0, options: { indirect?: boolean; size?: number } = {}) => {
    const chain = chainOf(options);
    chain.walk(head);
    return chain;
  };
  const faultOf = (head = 0, options: { indirect?: boolean; size?: number } = {}): string | undefined => {
    try {
      walk(head, options);
      return undefined;
    } catch (error) {
      if (error instanceof VirtqueueError) return error.fault;
      throw error;
    }
  };
  const entries = (chain: DescriptorChain) =>
    Array.from({ length: chain.count }, (_, index) => [
      chain.high[index]! * 2 ** 32 + chain.low[index]!,
      chain.length[index]!,
    ]);

  it('is one descriptor when that has no next (virtio 1.2 §2.7.5)', () => {
    direct(5, { gpa: BUFFER + 3, lengthBytes: 7 });
    const chain = walk(5);
    expect(entries(chain)).toEqual([[BUFFER + 3, 7]]);
    expect(chain).toMatchObject({ count: 1, readable: 1, readableBytes: 7, writableBytes: 0 });
  });

  it('follows next in any order and splits readable from writable (virtio 1.2 §2.7.4.2)', () => {
    direct(9, { lengthBytes: 16, flags: DESC.NEXT, next: 2 });
    direct(2, { gpa: BUFFER + 512, lengthBytes: 512, flags: DESC.NEXT | DESC.WRITE, next: 15 });
    direct(15, { gpa: BUFFER + 2048, lengthBytes: 1, flags: DESC.WRITE, next: 9 });
    const chain = walk(9);
    expect(entries(chain)).toEqual([
      [BUFFER, 16],
      [BUFFER + 512, 512],
      [BUFFER + 2048, 1],
    ]);
    expect(chain).toMatchObject({ readable: 1, readableBytes: 16, writableBytes: 513 });
  });

  it('may have no readable part at all', () => {
    direct(0, { flags: DESC.WRITE });
    expect(walk()).toMatchObject({ count: 1, readable: 0, readableBytes: 0, writableBytes: 64 });
  });

  it('leaves nothing of the chain before in the next one', () => {
    const chain = chainOf();
    direct(0, { flags: DESC.NEXT, next: 1 });
    direct(1, { flags: DESC.WRITE });
    chain.walk(0);
    direct(3, { gpa: BUFFER + 8, lengthBytes: 1 });
    chain.walk(3);
    expect(chain).toMatchObject({ count: 1, readable: 1, readableBytes: 1, writableBytes: 0 });
  });

  it('may be as long as the ring, and no longer: a loop ends there (virtio 1.2 §2.7.5.1)', () => {
    for (let index = 0; index < SIZE; index += 1)
      direct(index, { flags: index === SIZE - 1 ? 0 : DESC.NEXT, next: index + 1 });
    expect(walk().count).toBe(SIZE);
    direct(SIZE - 1, { flags: DESC.NEXT, next: 0 });
    expect(faultOf()).toBe('chain-too-long');
    direct(7, { flags: DESC.NEXT, next: 7 });
    expect(faultOf(7)).toBe('chain-too-long');
  });

  it('is never longer than 1024, however large the ring', () => {
    const size = 2048;
    for (let index = 0; index < size; index += 1)
      direct(index, { flags: index === MAX_CHAIN - 1 ? 0 : DESC.NEXT, next: index + 1 });
    expect(walk(0, { size }).count).toBe(MAX_CHAIN);
    direct(MAX_CHAIN - 1, { flags: DESC.NEXT, next: MAX_CHAIN });
    expect(faultOf(0, { size })).toBe('chain-too-long');
  });

  it('refuses a next that is not in the table', () => {
    direct(0, { flags: DESC.NEXT, next: SIZE });
    expect(faultOf()).toBe('next-out-of-range');
    direct(0, { flags: DESC.NEXT, next: 0xffff });
    expect(faultOf()).toBe('next-out-of-range');
    direct(0, { next: 0xffff });
    expect(faultOf()).toBeUndefined();
  });

  it('refuses a device-readable descriptor after a device-writable one (virtio 1.2 §2.7.4.2)', () => {
    direct(0, { flags: DESC.NEXT | DESC.WRITE, next: 1 });
    direct(1);
    expect(faultOf()).toBe('readable-after-writable');
  });

  it('refuses an empty descriptor', () => {
    direct(0, { lengthBytes: 0 });
    expect(faultOf()).toBe('descriptor-empty');
  });

  it.each([
    ['below memory', { gpa: GPA - 1 }],
    ['past its end', { gpa: GPA + BYTES - 63 }],
    ['4 GiB further', { gpa: GPA + 2 ** 32 }],
    ['at the top of the address space', { gpa: 0xffff_ffff_ffff_ffffn }],
    ['that wraps round 2^64', { gpa: 0xffff_ffff_ffff_fff0n, lengthBytes: 0x20 }],
    ['of nearly 4 GiB', { lengthBytes: 0xffff_ffff }],
    ['whose length has the sign bit', { lengthBytes: 0x8000_0000 }],
  ])('refuses a descriptor %s', (_, more) => {
    direct(0, more);
    expect(faultOf()).toBe('descriptor-outside-memory');
  });

  it('refuses more than 2^32 bytes in all (virtio 1.2 §2.7.4.1)', () => {
    const part = 2 ** 28; // 16 of them are exactly 4 GiB
    const huge = { contains: () => true, wordsAt: () => undefined } as unknown as DeviceMemory['memory'];
    const words = new Uint32Array(4 * (SIZE + 1));
    const fill = (count: number, lengthBytes: number) => {
      for (let index = 0; index < count; index += 1)
        words.set(
          [0, 0, lengthBytes, (index === count - 1 ? 0 : DESC.NEXT) | ((index + 1) << 16)],
          4 * index,
        );
    };
    const chain = new DescriptorChain(huge, words, SIZE + 1, { indirect: false });
    fill(SIZE, part);
    chain.walk(0);
    expect(chain.readableBytes).toBe(2 ** 32);
    fill(SIZE + 1, part);
    expect(() => chain.walk(0)).toThrow('chain-too-large');
  });

  describe('with an indirect table', () => {
    it('is the table, from its first entry on (virtio 1.2 §2.7.5.3)', () => {
      driver.writeDescriptor(4, pointer(3));
      inTable(0, { flags: DESC.NEXT, next: 2 });
      inTable(2, { gpa: BUFFER + 64, flags: DESC.NEXT | DESC.WRITE, next: 1 });
      inTable(1, { gpa: BUFFER + 128, flags: DESC.WRITE });
      expect(entries(walk(4)).map(([gpa]) => gpa)).toEqual([BUFFER, BUFFER + 64, BUFFER + 128]);
    });

    it('may begin with direct descriptors (virtio 1.2 §2.7.5.3.2)', () => {
      direct(0, { lengthBytes: 16, flags: DESC.NEXT, next: 1 });
      driver.writeDescriptor(1, pointer(1));
      inTable(0, { gpa: BUFFER + 512, lengthBytes: 1, flags: DESC.WRITE });
      expect(entries(walk())).toEqual([
        [BUFFER, 16],
        [BUFFER + 512, 1],
      ]);
    });

    it('pays no heed to the write flag on the table itself (virtio 1.2 §2.7.5.3.2)', () => {
      driver.writeDescriptor(0, pointer(1, { flags: DESC.INDIRECT | DESC.WRITE }));
      inTable(0);
      expect(walk()).toMatchObject({ readable: 1, writableBytes: 0 });
    });

    it('may be longer than the ring, up to 1024 (Linux fills it up to seg_max + 2)', () => {
      driver.writeDescriptor(0, pointer(MAX_CHAIN));
      for (let index = 0; index < MAX_CHAIN; index += 1)
        inTable(index, { flags: index === MAX_CHAIN - 1 ? 0 : DESC.NEXT, next: index + 1 });
      expect(walk().count).toBe(MAX_CHAIN);
      inTable(MAX_CHAIN - 1, { flags: DESC.NEXT, next: 0 });
      expect(faultOf()).toBe('chain-too-long');
    });

    it('is no longer than 1024 with the direct descriptors before it', () => {
      direct(0, { flags: DESC.NEXT, next: 1 });
      driver.writeDescriptor(1, pointer(MAX_CHAIN));
      for (let index = 0; index < MAX_CHAIN; index += 1)
        inTable(index, { flags: index === MAX_CHAIN - 1 ? 0 : DESC.NEXT, next: index + 1 });
      expect(faultOf()).toBe('chain-too-long');
    });

    it.each([3, 4, 8, 12])('reads a table that is misaligned by %i bytes', (by) => {
      driver.writeDescriptor(0, pointer(2, { gpa: TABLE + by }));
      inTable(0, { lengthBytes: 5, flags: DESC.NEXT, next: 1 }, TABLE + by);
      inTable(1, { lengthBytes: 6, flags: DESC.WRITE }, TABLE + by);
      expect(walk()).toMatchObject({ count: 2, readableBytes: 5, writableBytes: 6 });
    });

    it('reads a table that lies across two windows', () => {
      const table = GIB - 16;
      driver.writeDescriptor(0, pointer(2, { gpa: table }));
      inTable(0, { lengthBytes: 5, flags: DESC.NEXT, next: 1 }, table);
      inTable(1, { lengthBytes: 6, flags: DESC.WRITE }, table);
      expect(walk()).toMatchObject({ count: 2, readableBytes: 5, writableBytes: 6 });
    });

    it('reads a table in place after one that had to be copied', () => {
      const chain = chainOf();
      driver.writeDescriptor(0, pointer(1, { gpa: TABLE + 2 }));
      inTable(0, { lengthBytes: 5 }, TABLE + 2);
      chain.walk(0);
      driver.writeDescriptor(0, pointer(1, { gpa: TABLE + 0x100 }));
      inTable(0, { lengthBytes: 9 }, TABLE + 0x100);
      chain.walk(0);
      expect(chain.readableBytes).toBe(9);
    });

    it('refuses a next that is not in the table, though it is in the ring', () => {
      driver.writeDescriptor(0, pointer(2));
      inTable(0, { flags: DESC.NEXT, next: 2 });
      expect(faultOf()).toBe('next-out-of-range');
    });

    it.each([0, 8, 15, 17, 24])('refuses a table of %i bytes (virtio 1.2 §2.7.5.3)', (lengthBytes) => {
      driver.writeDescriptor(0, pointer(1, { lengthBytes }));
      inTable(0);
      expect(faultOf()).toBe('indirect-size-invalid');
    });

    it('refuses a table inside a table (virtio 1.2 §2.7.5.3.1)', () => {
      driver.writeDescriptor(0, pointer(1));
      inTable(0, { lengthBytes: 16, flags: DESC.INDIRECT });
      expect(faultOf()).toBe('indirect-nested');
    });

    it('refuses a table with a next (virtio 1.2 §2.7.5.3.1)', () => {
      driver.writeDescriptor(0, pointer(1, { flags: DESC.INDIRECT | DESC.NEXT, next: 1 }));
      inTable(0);
      expect(faultOf()).toBe('indirect-with-next');
    });

    it('refuses a table that was not negotiated (virtio 1.2 §2.7.5.3.1)', () => {
      driver.writeDescriptor(0, pointer(1));
      inTable(0);
      expect(faultOf(0, { indirect: false })).toBe('indirect-not-negotiated');
    });

    it('refuses a table that is not mapped to its end', () => {
      driver.writeDescriptor(0, pointer(2, { gpa: GPA + BYTES - 16 }));
      expect(faultOf()).toBe('descriptor-outside-memory');
      driver.writeDescriptor(0, pointer(0, { lengthBytes: 0xffff_fff0 }));
      expect(faultOf()).toBe('descriptor-outside-memory');
    });

    it('checks the descriptors of a table as those of the ring', () => {
      driver.writeDescriptor(0, pointer(2));
      inTable(0, { lengthBytes: 0 });
      expect(faultOf()).toBe('descriptor-empty');
      inTable(0, { gpa: GPA - 64 });
      expect(faultOf()).toBe('descriptor-outside-memory');
      inTable(0, { flags: DESC.WRITE | DESC.NEXT, next: 1 });
      inTable(1);
      expect(faultOf()).toBe('readable-after-writable');
    });
  });
});
