import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DescriptorChain } from '../descriptor-chain.js';
import { BLK_TYPE, DeviceMemory, FakeDriver, GuestRam, type Segment } from '../testing/index.js';
import { VirtqueueError } from '../virtqueue-error.js';
import { BlkRequest } from './blk-request.js';

const GIB = 2 ** 30;
const U32 = 2 ** 32;
const GPA = GIB - 0x8_0000;
const SIZE = 128;

describe('a block request', () => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let driver: FakeDriver;
  let request: BlkRequest;
  let chain: DescriptorChain;

  beforeEach(() => {
    ram = new GuestRam([{ gpa: GPA, sizeBytes: 0x10_0000 }]);
    device = new DeviceMemory(ram);
    driver = new FakeDriver(ram, { size: SIZE, eventIdx: false });
    request = new BlkRequest(device.memory);
    const words = new Uint32Array(device.memory.view(driver.descGpa, 16 * SIZE));
    chain = new DescriptorChain(device.memory, words, SIZE, { indirect: true });
  });
  afterEach(() => {
    device.close();
    ram.close();
  });

  const headerOf = (type: number, sector: number | bigint): Buffer => {
    const header = Buffer.alloc(16);
    header.writeUInt32LE(type, 0);
    header.writeUInt32LE(0xdead, 4); // reserved: to be ignored
    header.writeBigUInt64LE(BigInt(sector), 8);
    return header;
  };

  /** Lays `readable` bytes of header and data and `writable` bytes of data and status out in pieces of these lengths. */
  const parse = (
    readable: Uint8Array,
    pieces: { readable: readonly number[]; writable: readonly number[] },
    gpas: readonly number[] = [],
  ): Segment[] => {
    const segments: Segment[] = [];
    let from = 0;
    for (const [kind, lengths] of Object.entries(pieces)) {
      for (const lengthBytes of lengths) {
        const gpa = gpas[segments.length] ?? ram.allocate(lengthBytes, 1);
        const writable = kind === 'writable';
        if (!writable) ram.bytes(gpa, lengthBytes).set(readable.subarray(from, (from += lengthBytes)));
        segments.push({ gpa, lengthBytes, writable });
      }
    }
    chain.walk(driver.submit(segments));
    request.parse(chain);
    return segments;
  };
  const data = (): [gpa: number, lengthBytes: number][] => {
    const out = new Uint32Array(4 * request.segmentCount);
    const count = request.writeSegments(chain, out, 0);
    if (request.segmentCount === 1 && count === 1)
      expect([request.soleLow(chain), request.soleHigh(chain)]).toEqual([...out.subarray(0, 2)]);
    return Array.from({ length: count }, (_, index) => {
      const [low, high, bytes, zero] = out.subarray(4 * index, 4 * index + 4);
      expect(zero).toBe(0);
      return [(high! - device.memory.baseHigh) * U32 + low!, bytes!];
    });
  };
  const status = () => request.statusHigh * U32 + request.statusLow;
  const ones = (count: number) => Array.from({ length: count }, () => 1);

  it('is read in its usual frame: header, data, status (virtio 1.2 §5.2.6)', () => {
    const [, body, last] = parse(headerOf(BLK_TYPE.IN, 77), { readable: [16], writable: [4096, 1] });
    expect(request).toMatchObject({ type: BLK_TYPE.IN, sector: 77, dataBytes: 4096 });
    expect(data()).toEqual([[body!.gpa, 4096]]);
    expect(status()).toBe(last!.gpa);
  });

  it('has one data segment where the status byte has a descriptor of its own, and where it has not', () => {
    for (const writable of [[512, 1], [513]]) {
      const [, segment] = parse(headerOf(BLK_TYPE.IN, 5), { readable: [16], writable });
      expect(request.segmentCount).toBe(1);
      expect(data()).toEqual([[segment!.gpa, 512]]);
    }
  });

  it('may have many data segments, and gives them in order', () => {
    const lengths = Array.from({ length: 126 }, (_, index) => 8 + index);
    const bytes = lengths.reduce((sum, length) => sum + length, 0);
    const payload = Buffer.concat([headerOf(BLK_TYPE.OUT, 1), Buffer.alloc(bytes)]);
    const segments = parse(payload, { readable: [16, ...lengths], writable: [1] });
    expect(request.dataBytes).toBe(bytes);
    expect(data()).toEqual(segments.slice(1, -1).map(({ gpa, lengthBytes }) => [gpa, lengthBytes]));
  });

  // virtio 1.2 §2.7.4: a device must make no assumptions about how a request is framed.
  it.each([
    { name: 'a header of single bytes', readable: [...ones(16), 512] },
    { name: 'a header in two parts', readable: [5, 11, 512] },
    { name: 'header and data in one descriptor', readable: [528] },
    { name: 'the end of the header with the beginning of the data', readable: [9, 8, 511] },
    { name: 'header and data cut anywhere', readable: [1, 30, 497] },
    { name: 'single bytes of data', readable: [16, ...ones(100), 412] },
  ])('of writing may have $name', ({ readable }) => {
    const segments = parse(Buffer.concat([headerOf(BLK_TYPE.OUT, 5), Buffer.alloc(512)]), {
      readable,
      writable: [1],
    });
    const bytesOf = (list: [number, number][]) =>
      list.flatMap(([gpa, length]) => Array.from({ length }, (_, index) => gpa + index));
    const all = bytesOf(segments.slice(0, -1).map(({ gpa, lengthBytes }) => [gpa, lengthBytes]));
    expect(request).toMatchObject({ type: BLK_TYPE.OUT, sector: 5, dataBytes: 512 });
    expect(bytesOf(data())).toEqual(all.slice(16));
    expect(status()).toBe(segments.at(-1)!.gpa);
  });

  it.each([
    { name: 'the status in the last byte of the data descriptor', writable: [513] },
    { name: 'the end of the data with the status', writable: [500, 13] },
    { name: 'single bytes of data', writable: [...ones(100), 412, 1] },
    { name: 'the data in parts and the status alone', writable: [511, 1, 1] },
  ])('of reading may have $name', ({ writable }) => {
    const segments = parse(headerOf(BLK_TYPE.IN, 5), { readable: [3, 13], writable });
    const last = segments.at(-1)!;
    expect(request).toMatchObject({ type: BLK_TYPE.IN, sector: 5, dataBytes: 512 });
    expect(status()).toBe(last.gpa + last.lengthBytes - 1);
    const wanted = segments.slice(2).map(({ gpa, lengthBytes }): [number, number] => [gpa, lengthBytes]);
    wanted.at(-1)![1] -= 1;
    expect(data()).toEqual(wanted.filter(([, lengthBytes]) => lengthBytes > 0));
  });

  it('reads a header that lies across two windows, or is misaligned', () => {
    for (const gpa of [GIB - 8, GIB - 3, GPA + 0x4_0001]) {
      parse(headerOf(BLK_TYPE.IN, 0x1_2345_6789), { readable: [16], writable: [1] }, [gpa]);
      expect(request).toMatchObject({ type: BLK_TYPE.IN, sector: 0x1_2345_6789, dataBytes: 0 });
    }
  });

  it('carries into the high word when the data begins past a 4 GiB border', () => {
    const high = new GuestRam([{ gpa: U32 - 4096, sizeBytes: 8192 }]);
    const mapped = new DeviceMemory(high);
    try {
      const gpa = U32 - 8;
      high.bytes(gpa, 16).set(headerOf(BLK_TYPE.OUT, 0));
      const other = new FakeDriver(high, { size: 4, eventIdx: false });
      const words = new Uint32Array(mapped.memory.view(other.descGpa, 64));
      const border = new DescriptorChain(mapped.memory, words, 4, { indirect: false });
      const framed = new BlkRequest(mapped.memory);
      // The status byte stands past the border, too, in a descriptor that begins before it.
      border.walk(
        other.submit([
          { gpa, lengthBytes: 528, writable: false },
          { gpa: U32 - 3, lengthBytes: 7, writable: true },
        ]),
      );
      framed.parse(border);
      const out = new Uint32Array(4);
      expect(framed.writeSegments(border, out, 0)).toBe(1);
      expect([...out]).toEqual([8, mapped.memory.baseHigh + 1, 512, 0]);
      expect([framed.soleLow(border), framed.soleHigh(border)]).toEqual([8, mapped.memory.baseHigh + 1]);
      expect([framed.statusLow, framed.statusHigh]).toEqual([3, 1]);
    } finally {
      mapped.close();
      high.close();
    }
  });

  it('takes a sector past 2^53 for one that no disk has, and any below for what it is', () => {
    parse(headerOf(BLK_TYPE.IN, 2n ** 53n - 1n), { readable: [16], writable: [1] });
    expect(request.sector).toBe(Number.MAX_SAFE_INTEGER);
    for (const sector of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      parse(headerOf(BLK_TYPE.IN, sector), { readable: [16], writable: [1] });
      expect(request.sector).toBe(Infinity);
    }
  });

  it('keeps a type with the sign bit unsigned, and frames it as one with a payload', () => {
    parse(headerOf(0xffff_ffff, 0), { readable: [16], writable: [1] });
    expect(request).toMatchObject({ type: 0xffff_ffff, dataBytes: 0, segmentCount: 0 });
  });

  it('may have no data at all, for a flush', () => {
    const [, last] = parse(headerOf(BLK_TYPE.FLUSH, 0), { readable: [16], writable: [1] });
    expect(request.dataBytes).toBe(0);
    expect(data()).toEqual([]);
    expect(status()).toBe(last!.gpa);
  });

  it('writes its segments where it is told to', () => {
    const [, body] = parse(headerOf(BLK_TYPE.IN, 0), { readable: [16], writable: [512, 1] });
    const out = new Uint32Array(12).fill(0xaaaaaaaa);
    expect(request.writeSegments(chain, out, 4)).toBe(1);
    expect(out[3]).toBe(0xaaaaaaaa);
    expect(out[4]).toBe(body!.gpa);
    expect(out[8]).toBe(0xaaaaaaaa);
  });

  it('leaves nothing of the frame before in the next request', () => {
    parse(Buffer.concat([headerOf(BLK_TYPE.OUT, 5), Buffer.alloc(512)]), {
      readable: [3, 525],
      writable: [1],
    });
    const [, body] = parse(headerOf(BLK_TYPE.IN, 6), { readable: [16], writable: [1024, 1] });
    expect(request).toMatchObject({ sector: 6, dataBytes: 1024 });
    expect(data()).toEqual([[body!.gpa, 1024]]);
  });

  it.each([
    { name: 'a header of 15 bytes', readable: [15], writable: [1], fault: 'header-too-short' },
    { name: 'no header', readable: [], writable: [513], fault: 'header-too-short' },
    { name: 'no status byte', readable: [16], writable: [], fault: 'status-missing' },
  ])('with $name breaks the ring: nothing could be answered', ({ readable, writable, fault }) => {
    let thrown: unknown;
    try {
      parse(headerOf(BLK_TYPE.IN, 0), { readable, writable });
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(VirtqueueError);
    expect((thrown as VirtqueueError).fault).toBe(fault);
  });
});
