import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { BLK_TYPE, BlkRequest, SECTOR_BYTES } from './blk/blk-request.js';
import { parseBlkSegments } from './blk/blk-segments.js';
import type { Chain } from './chain.js';
import { DescriptorChain, MAX_CHAIN } from './descriptor-chain.js';
import { PackedInflight, packedInflightBytes } from './packed-inflight.js';
import { PackedChain } from './packed-chain.js';
import { PackedVirtqueue } from './packed-virtqueue.js';
import { SplitInflight, splitInflightBytes } from './split-inflight.js';
import { SplitVirtqueue } from './split-virtqueue.js';
import {
  type Choices,
  DESC,
  DeviceMemory,
  FakeDriver,
  FakePackedDriver,
  fuzz,
  fuzzBudget,
  GuestRam,
  type Segment,
} from './testing/index.js';
import { VirtqueueError } from './virtqueue-error.js';

// Everything that a guest's bytes are parsed by, some hundred thousand cases a second: nearly valid input, of which a
// field or two are off. A parser may refuse with its own error; what it takes must lie in guest memory and in the disk.
// An access outside of guest memory ends the process, because nothing is mapped around it.

vi.setConfig({ testTimeout: 20_000 + 1_000 * fuzzBudget(0).seconds });

const SIZE = 16;
const CASES = 20_000;
const U32 = 2 ** 32;
const REGION_BYTES = 0x1_0000;
const REGIONS = [0, U32].map((gpa) => ({ gpa, sizeBytes: REGION_BYTES }));
const TABLE = 0x8000;
const HEADER = 0x9000;
const TYPES = Object.values(BLK_TYPE);

const rates: string[] = [];
const report = (name: string, perSecond: number): void => {
  rates.push(`${name}: ${Math.round(perSecond).toLocaleString('en')} cases a second of CPU`);
};

/** Runs a parser; false when it refused with its own error. */
const accepted = (parse: () => void): boolean => {
  try {
    parse();
    return true;
  } catch (error) {
    if (error instanceof VirtqueueError) return false;
    throw error;
  }
};

const isMapped = (gpa: number, lengthBytes: number): boolean =>
  lengthBytes > 0 && REGIONS.some((one) => gpa >= one.gpa && gpa + lengthBytes <= one.gpa + one.sizeBytes);

const require = (condition: boolean, what: string, value?: number): void => {
  if (!condition) throw new Error(value === undefined ? what : `${what}: ${value}`);
};

describe('what a guest’s bytes are parsed by', () => {
  let ram: GuestRam;
  let device: DeviceMemory;
  let low: DataView;
  let request: BlkRequest;
  const iovecs = new Uint32Array(MAX_CHAIN * 4);

  beforeAll(() => {
    ram = new GuestRam(REGIONS);
    device = new DeviceMemory(ram);
    const { bytes } = ram.regions[0]!;
    low = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    request = new BlkRequest(device.memory);
  });
  afterAll(() => {
    device.close();
    ram.close();
    console.log(rates.join('\n'));
  });

  /** Words of the address that `address` chose. */
  let addressLow = 0;
  let addressHigh = 0;
  const address = (choices: Choices): void => {
    if (choices.oneIn(12)) {
      addressLow = choices.interesting();
      addressHigh = choices.interesting();
      return;
    }
    // One region begins at 0, the other at 4 GiB.
    addressHigh = choices.below(REGIONS.length);
    addressLow = choices.oneIn(8) ? REGION_BYTES - choices.below(64) : choices.below(REGION_BYTES);
  };
  const addressOfHeader = (): void => {
    addressLow = HEADER;
    addressHigh = 0;
  };

  /** Writes a descriptor with that address at `at` in the low region; `third` and `fourth` are its last two halves. */
  const writeDescriptor = (at: number, lengthBytes: number, third: number, fourth: number): void => {
    low.setUint32(at, addressLow, true);
    low.setUint32(at + 4, addressHigh, true);
    low.setUint32(at + 8, lengthBytes, true);
    low.setUint16(at + 12, third, true);
    low.setUint16(at + 14, fourth, true);
  };

  const writeHeader = (choices: Choices): void => {
    low.setUint32(
      HEADER,
      choices.oneIn(8) ? choices.interesting() : TYPES[choices.below(TYPES.length)]!,
      true,
    );
    low.setUint32(HEADER + 8, choices.below(0x4000), true);
    low.setUint32(HEADER + 12, choices.oneIn(8) ? choices.interesting() : 0, true);
  };

  const lengthOf = (choices: Choices, index: number): number => {
    if (choices.oneIn(16)) return choices.interesting();
    if (index === 0) return 16;
    return choices.oneIn(3) ? 1 + choices.below(4) : 512 * (1 + choices.below(8));
  };

  /** Whatever was taken as a chain must be one, and the request in it must lie in it. */
  const checkChain = (chain: Chain): void => {
    require(chain.count >= 1 && chain.count <= MAX_CHAIN, 'descriptors', chain.count);
    require(chain.readable <= chain.count, 'readable descriptors', chain.readable);
    let readable = 0;
    let writable = 0;
    for (let index = 0; index < chain.count; index += 1) {
      const gpa = chain.high[index]! * U32 + chain.low[index]!;
      require(isMapped(gpa, chain.length[index]!), 'a descriptor outside of memory', gpa);
      if (index < chain.readable) readable += chain.length[index]!;
      else writable += chain.length[index]!;
    }
    require(readable === chain.readableBytes && writable === chain.writableBytes, 'sums of lengths');
    if (!accepted(() => request.parse(chain))) return;
    require(isMapped(request.statusHigh * U32 + request.statusLow, 1), 'the status byte');
    require(request.sector >= 0, 'the sector', request.sector);
    require(request.segmentCount <= chain.count, 'segments', request.segmentCount);
    const count = request.writeSegments(chain, iovecs, 0);
    let bytes = 0;
    for (let index = 0; index < count; index += 1) {
      const at = index * 4;
      const gpa = (iovecs[at + 1]! - device.memory.baseHigh) * U32 + iovecs[at]!;
      require(isMapped(gpa, iovecs[at + 2]!), 'a segment outside of memory', gpa);
      bytes += iovecs[at + 2]!;
    }
    require(bytes === request.dataBytes, 'bytes in segments', bytes);
  };

  it('takes only chains of split rings that lie in guest memory', () => {
    const words = new Uint32Array(device.memory.view(0, 16 * SIZE));
    const chain = new DescriptorChain(device.memory, words, SIZE, { indirect: true });
    const perSecond = fuzz(fuzzBudget(CASES), (choices) => {
      const count = 1 + choices.below(6);
      const first = choices.below(SIZE);
      const inTable = choices.oneIn(3);
      const base = inTable ? TABLE + (choices.oneIn(8) ? choices.below(32) : 0) : 0;
      writeHeader(choices);
      let index = inTable ? 0 : first;
      for (let step = 0; step < count; step += 1) {
        const last = step === count - 1;
        const next = inTable ? step + 1 : choices.below(SIZE);
        const flags = (last ? 0 : DESC.NEXT) | (step > 0 && (last || choices.oneIn(2)) ? DESC.WRITE : 0);
        if (step === 0 && !choices.oneIn(10)) addressOfHeader();
        else address(choices);
        writeDescriptor(
          base + 16 * index,
          lengthOf(choices, step),
          choices.oneIn(24) ? choices.below(0x10000) : flags,
          choices.oneIn(24) ? choices.below(0x10000) : next,
        );
        index = next;
      }
      if (inTable) {
        const lengthBytes = choices.oneIn(16) ? choices.interesting() : 16 * count;
        addressLow = base;
        addressHigh = 0;
        writeDescriptor(16 * first, lengthBytes, choices.oneIn(16) ? 7 : DESC.INDIRECT, 0);
      }
      if (accepted(() => chain.walk(first))) checkChain(chain);
    });
    report('split chains with their requests', perSecond);
  });

  it('takes only chains of packed rings that lie in guest memory', () => {
    const chain = new PackedChain(device.memory, SIZE, { indirect: true });
    const perSecond = fuzz(fuzzBudget(CASES), (choices) => {
      const count = 1 + choices.below(6);
      const inTable = choices.oneIn(3);
      writeHeader(choices);
      const base = TABLE + (choices.oneIn(8) ? choices.below(32) : 0);
      for (let step = 0; step < count; step += 1) {
        const last = step === count - 1;
        const flags = (last ? 0 : DESC.NEXT) | (step > 0 && (last || choices.oneIn(2)) ? DESC.WRITE : 0);
        if (step === 0 && !choices.oneIn(10)) addressOfHeader();
        else address(choices);
        const known = choices.oneIn(24) ? choices.below(0x10000) : flags;
        writeDescriptor(base + 16 * step, lengthOf(choices, step), choices.below(0x10000), known);
      }
      const taken = accepted(() => {
        chain.clear();
        if (inTable) {
          chain.add(base, 0, choices.oneIn(16) ? choices.interesting() : 16 * count, DESC.INDIRECT);
        } else {
          let at = base;
          while (
            chain.add(
              low.getUint32(at, true),
              low.getUint32(at + 4, true),
              low.getUint32(at + 8, true),
              low.getUint16(at + 14, true),
            )
          )
            at += 16;
        }
        chain.finish(choices.oneIn(16) ? choices.below(0x10000) : choices.below(SIZE));
      });
      if (!taken) return;
      require(chain.id < SIZE && chain.slots <= SIZE, 'the id', chain.id);
      checkChain(chain);
    });
    report('packed chains with their requests', perSecond);
  });

  it.each([
    ['split', false],
    ['packed', true],
  ])('peeks into a %s ring of any content', (name, packed) => {
    const ring = new Uint8Array(device.memory.view(0, 16 * SIZE));
    const driver = new (packed ? FakePackedDriver : FakeDriver)(ram, {
      size: SIZE,
      eventIdx: false,
      descGpa: 0,
      availGpa: 0x400,
      usedGpa: 0x600,
    });
    const { descGpa: descriptors, availGpa: avail, usedGpa: used } = driver;
    const addresses = { descriptors, avail, used };
    const config = { memory: device.memory, addresses, size: SIZE, eventIdx: true, indirect: true };
    const queue = packed
      ? new PackedVirtqueue({ ...config, nextAvail: 0x8000_8000 })
      : new SplitVirtqueue({ ...config, nextAvail: 0 });
    const perSecond = fuzz(fuzzBudget(CASES), (choices) => {
      writeHeader(choices);
      for (let slot = 0; slot < SIZE; slot += 1) {
        const flags = choices.below(8) | (packed ? (choices.oneIn(8) ? 0x8000 : 0x80) : 0);
        const id = choices.oneIn(16) ? choices.below(0x10000) : choices.below(SIZE);
        const [third, fourth] = packed ? [id, flags] : [flags, id];
        address(choices);
        writeDescriptor(16 * slot, lengthOf(choices, slot), third, fourth);
      }
      if (!packed) {
        low.setUint16(avail + 2, choices.oneIn(4) ? choices.below(0x10000) : choices.below(SIZE + 2), true);
        low.setUint16(avail + 4, choices.oneIn(8) ? choices.below(0x10000) : choices.below(SIZE), true);
      }
      let head = -1;
      if (!accepted(() => (head = queue.peekAvail()))) return;
      require(head >= -1 && head < SIZE, 'the head', head);
      if (head >= 0) checkChain(queue.chain);
    });
    ring.fill(0);
    report(`${name} rings`, perSecond);
  });

  it('takes only ranges of zeroing requests that lie in the disk', () => {
    const capacityBytes = 0x100_0000;
    const limits = { maxSegments: 32, maxSectors: 2 ** 22, capacityBytes, blockSizeBytes: SECTOR_BYTES };
    const bytes = new Uint8Array(64 * 16);
    const view = new DataView(bytes.buffer);
    const perSecond = fuzz(fuzzBudget(CASES), (choices) => {
      const count = choices.below(4);
      for (let index = 0; index < count; index += 1) {
        view.setUint32(16 * index, choices.oneIn(6) ? choices.interesting() : choices.below(0x8000), true);
        view.setUint32(16 * index + 4, choices.oneIn(8) ? choices.interesting() : 0, true);
        view.setUint32(16 * index + 8, choices.oneIn(6) ? choices.interesting() : choices.below(64), true);
        view.setUint32(16 * index + 12, choices.oneIn(8) ? choices.interesting() : choices.below(2), true);
      }
      const length = choices.oneIn(16) ? choices.below(bytes.length) : 16 * count;
      const type = choices.oneIn(2) ? BLK_TYPE.DISCARD : BLK_TYPE.WRITE_ZEROES;
      const { status, segments } = parseBlkSegments(type, bytes.subarray(0, length), limits);
      require(status === 0 || segments.length === 0, 'ranges of a refused request', segments.length);
      for (const { offsetBytes, lengthBytes } of segments) {
        const inside = offsetBytes >= 0 && lengthBytes > 0 && offsetBytes + lengthBytes <= capacityBytes;
        require(inside && offsetBytes % SECTOR_BYTES === 0, 'a range outside of the disk', offsetBytes);
      }
    });
    report('ranges of zeroing requests', perSecond);
  });

  /** A record of a ring with some requests in flight and some answered. */
  const honestRecord = (packed: boolean): { area: Uint8Array; usedIdx: number; flags: number[] } => {
    const buffer = new ArrayBuffer(packed ? packedInflightBytes(SIZE) : splitInflightBytes(SIZE));
    const Driver = packed ? FakePackedDriver : FakeDriver;
    const place = { descGpa: 0, availGpa: 0x400, usedGpa: 0x600 };
    const driver = new Driver(ram, { size: SIZE, eventIdx: false, ...place });
    const addresses = { descriptors: driver.descGpa, avail: driver.availGpa, used: driver.usedGpa };
    const config = { memory: device.memory, addresses, size: SIZE, eventIdx: false, indirect: true };
    const region = { buffer, offsetBytes: 0, entries: SIZE };
    const queue = packed
      ? new PackedVirtqueue({ ...config, nextAvail: 0x8000_8000, inflight: new PackedInflight(region) })
      : new SplitVirtqueue({ ...config, nextAvail: 0, inflight: new SplitInflight(region) });
    const pieces: Segment[] = [
      { gpa: HEADER, lengthBytes: 16, writable: false },
      { gpa: HEADER + 64, lengthBytes: 512, writable: true },
    ];
    const heads: number[] = [];
    for (let index = 0; index < 6; index += 1) driver.submit(pieces);
    driver.publish();
    for (let head = queue.peekAvail(); head >= 0; head = queue.peekAvail()) {
      queue.take(head);
      heads.push(head);
    }
    for (const head of [heads[1]!, heads[4]!]) queue.complete(head, 1);
    queue.publish();
    const flags = packed ? Array.from({ length: SIZE }, (_, slot) => ram.loadU16(16 * slot + 14)) : [];
    return { area: new Uint8Array(buffer), usedIdx: 2, flags };
  };

  it.each([
    ['split', false],
    ['packed', true],
  ])('takes up only what a %s record of requests in flight can hold', (name, packed) => {
    const honest = honestRecord(packed);
    const buffer = new ArrayBuffer(honest.area.length);
    const area = new Uint8Array(buffer);
    const view = new DataView(buffer);
    const chain = new PackedChain(device.memory, SIZE, { indirect: true });
    let resumed = 0;
    const perSecond = fuzz(fuzzBudget(CASES), (choices) => {
      area.set(honest.area);
      for (let off = choices.below(4); off > 0; off -= 1) {
        const at = 2 * choices.below(area.length / 2);
        if (choices.oneIn(2))
          view.setUint16(at, choices.oneIn(2) ? choices.below(SIZE + 2) : choices.u32(), true);
        else view.setUint8(at, choices.below(256));
      }
      const region = { buffer, offsetBytes: 0, entries: SIZE };
      let order: Uint16Array | undefined;
      const taken = accepted(() => {
        if (!packed) {
          order = new SplitInflight(region).resume(SIZE, honest.usedIdx)?.heads;
          return;
        }
        const record = new PackedInflight(region);
        const ring = { flags: (slot: number) => honest.flags[slot]! };
        order = record.resume(SIZE, ring, { slot: 0, wrap: 1 })?.entries;
        for (const entry of order ?? []) {
          record.recall(entry, chain);
          checkChain(chain);
        }
      });
      if (!taken || !order) return;
      resumed += 1;
      require(order.length <= SIZE && new Set(order).size === order.length, 'heads', order.length);
      for (const head of order) require(head < SIZE, 'the head', head);
    });
    // Some are honest, or off where it does not matter.
    expect(resumed).toBeGreaterThan(CASES / 10);
    report(`${name} records of requests in flight`, perSecond);
  });
});
