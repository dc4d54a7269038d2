import {
  closeSync,
  constants,
  existsSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { native } from '@cairn/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CHUNK_BYTES, ExtentMap } from './extent-map.js';
import { ExtentRuns } from './extent-runs.js';
import { BLOCK_BYTES, type LayerFile, ZEROED, zeroMapPosition } from './layer-format.js';

const MAP_AT = 2 ** 40;
const PUNCH_KEEP_SIZE = 3;
const MIB = 2 ** 20;

const places = [tmpdir(), '/dev/shm'].filter((path) => existsSync(path));

describe.each(places)('an extent map of layers in %s', (place) => {
  let directory: string;
  const opened: number[] = [];
  const out = new ExtentRuns();

  beforeEach(() => {
    directory = mkdtempSync(join(place, 'cairn-map-'));
  });
  afterEach(() => {
    for (const fd of opened.splice(0)) closeSync(fd);
    rmSync(directory, { recursive: true });
  });

  const layerOf = (sizeBytes: number): LayerFile => {
    const flags = constants.O_RDWR | constants.O_CREAT;
    const fd = openSync(join(directory, `${opened.length}.img`), flags, 0o600);
    opened.push(fd);
    ftruncateSync(fd, sizeBytes);
    return { fd, sizeBytes, zeroMapOffsetBytes: MAP_AT };
  };
  const write = ({ fd }: LayerFile, block: number, blocks = 1) => {
    writeSync(fd, Buffer.alloc(blocks * BLOCK_BYTES, 0xa5), 0, blocks * BLOCK_BYTES, block * BLOCK_BYTES);
  };
  const discard = ({ fd }: LayerFile, block: number, blocks = 1) => {
    writeSync(fd, Buffer.alloc(blocks, ZEROED), 0, blocks, zeroMapPosition(MAP_AT, block * BLOCK_BYTES));
    native.allocate(fd, PUNCH_KEEP_SIZE, block * BLOCK_BYTES, blocks * BLOCK_BYTES);
  };
  const runsOf = (map: ExtentMap, offset: number, length: number): [number, number][] => {
    map.resolve(offset, length, out);
    return Array.from({ length: out.count }, (_, i): [number, number] => [out.slots[i]!, out.lengths[i]!]);
  };

  it('looks a place up in steps, and hears of what changes there meanwhile', () => {
    const layers = Array.from({ length: 5 }, () => layerOf(16 * MIB));
    for (const [index, layer] of layers.entries())
      for (let block = index; block < 1000; block += 7) write(layer, block);
    const head = layers.at(-1)!;
    const map = new ExtentMap({ layers, sizeBytes: 16 * MIB });
    expect(map.firstUnknown(0, 8 * MIB)).toBe(0);
    let steps = 0;
    while (!map.lookUpStep(0, 10)) {
      steps += 1;
      // Where the look-up has passed already, and where it has not.
      if (steps === 40) {
        write(head, 1);
        map.markHead(BLOCK_BYTES, BLOCK_BYTES);
        discard(head, 900);
        map.markZeroes(900 * BLOCK_BYTES, BLOCK_BYTES);
      }
    }
    expect(steps).toBeGreaterThan(40);
    expect(map.firstUnknown(0, 8 * MIB)).toBe(CHUNK_BYTES);
    expect(map.firstUnknown(4096, MIB)).toBeUndefined();
    expect([map.slotAt(BLOCK_BYTES), map.slotAt(900 * BLOCK_BYTES)]).toEqual([5, 0]);
    const fresh = new ExtentMap({ layers, sizeBytes: 16 * MIB });
    expect(runsOf(map, 0, CHUNK_BYTES)).toEqual(runsOf(fresh, 0, CHUNK_BYTES));
  });

  it('begins a look-up anew when what it found so far may be wrong', () => {
    const [bottom, head] = [layerOf(16 * MIB), layerOf(16 * MIB)];
    for (let block = 0; block < 200; block += 2) write(bottom, block);
    const map = new ExtentMap({ layers: [bottom, head], sizeBytes: 16 * MIB });
    expect(map.lookUpStep(0, 10)).toBe(false);
    write(head, 0);
    map.forget(0, BLOCK_BYTES);
    while (!map.lookUpStep(0, 10));
    expect(map.slotAt(0)).toBe(2);
  });

  it('answers 0 where no layer has data, the topmost that has it elsewhere', () => {
    const [bottom, head] = [layerOf(16 * MIB), layerOf(16 * MIB)];
    write(bottom, 0, 4);
    write(head, 1, 2);
    const map = new ExtentMap({ layers: [bottom, head], sizeBytes: 16 * MIB });
    expect(runsOf(map, 0, 8 * BLOCK_BYTES)).toEqual([
      [1, BLOCK_BYTES],
      [2, 2 * BLOCK_BYTES],
      [1, BLOCK_BYTES],
      [0, 4 * BLOCK_BYTES],
    ]);
    expect(map.slotAt(2 * BLOCK_BYTES + 17)).toBe(2);
    expect(map.layer(1)).toBe(bottom);
  });

  it('splits within blocks, and joins across chunks what has one answer', () => {
    const [bottom, head] = [layerOf(16 * MIB), layerOf(16 * MIB)];
    write(head, 1);
    const map = new ExtentMap({ layers: [bottom, head], sizeBytes: 16 * MIB });
    expect(runsOf(map, 3584, 1024)).toEqual([
      [0, 512],
      [2, 512],
    ]);
    expect(runsOf(map, CHUNK_BYTES - 512, 2 * CHUNK_BYTES)).toEqual([[0, 2 * CHUNK_BYTES]]);
    expect(map.slotAt(16 * MIB - 1)).toBe(0);
  });

  it('takes memory only for chunks with more than one answer', () => {
    const layers = [layerOf(1024 * MIB), layerOf(1024 * MIB)];
    write(layers[0]!, 0, 1024);
    const map = new ExtentMap({ layers, sizeBytes: 1024 * MIB });
    expect(runsOf(map, 0, 1024 * MIB)).toEqual([
      [1, CHUNK_BYTES],
      [0, 1024 * MIB - CHUNK_BYTES],
    ]);
    expect(map.memoryBytes).toBe(0);
  });

  it('covers what fits when there are more runs than room, and goes on from there', () => {
    const layers = [layerOf(4 * MIB), layerOf(4 * MIB)];
    for (let block = 0; block < 40; block += 2) write(layers[1]!, block);
    const map = new ExtentMap({ layers, sizeBytes: 4 * MIB });
    const few = new ExtentRuns(8);
    const seen: number[] = [];
    for (let at = 0; at < 40 * BLOCK_BYTES; at += few.coveredBytes) {
      map.resolve(at, 40 * BLOCK_BYTES - at, few);
      seen.push(...few.slots.subarray(0, few.count));
    }
    expect(seen).toEqual(Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? 2 : 0)));
  });

  it('reads zeroes where the zero map says so, unless the same layer has data', () => {
    const [bottom, head] = [layerOf(8 * MIB), layerOf(8 * MIB)];
    write(bottom, 0, 10);
    discard(head, 2, 4);
    write(head, 3);
    const map = new ExtentMap({ layers: [bottom, head], sizeBytes: 8 * MIB });
    expect(runsOf(map, 0, 8 * BLOCK_BYTES).map(([slot, bytes]) => [slot, bytes / BLOCK_BYTES])).toEqual([
      [1, 2],
      [0, 1],
      [2, 1],
      [0, 2],
      [1, 2],
    ]);
    map.resolveBelow(2 * BLOCK_BYTES, 10 * BLOCK_BYTES, out);
    expect([...out.slots.subarray(0, out.count)]).toEqual([1, 0]);
  });

  it('does not look past the end of a parent that is smaller', () => {
    const [bottom, head] = [layerOf(4 * BLOCK_BYTES), layerOf(8 * MIB)];
    write(bottom, 0, 4);
    // What lies beyond its size is not its own, whatever the file holds.
    write(bottom, 6, 2);
    const map = new ExtentMap({ layers: [bottom, head], sizeBytes: 8 * MIB });
    expect(runsOf(map, 0, MIB)).toEqual([
      [1, 4 * BLOCK_BYTES],
      [0, MIB - 4 * BLOCK_BYTES],
    ]);
  });

  it('keeps its answers under a new head', () => {
    const layers = [layerOf(8 * MIB), layerOf(8 * MIB)];
    write(layers[0]!, 0, 2);
    write(layers[1]!, 1);
    const map = new ExtentMap({ layers, sizeBytes: 8 * MIB });
    runsOf(map, 0, MIB);
    map.pushHead(layerOf(8 * MIB));
    expect(map.headSlot).toBe(3);
    expect(runsOf(map, 0, 2 * BLOCK_BYTES).map(([slot]) => slot)).toEqual([1, 2]);
    map.markHead(0, 512);
    expect(map.slotAt(4095)).toBe(3);
  });

  it('throws what the file system says, and asks again later', () => {
    const layers = [layerOf(MIB), layerOf(MIB)];
    const map = new ExtentMap({ layers: [layers[0]!, { fd: 1 << 30, sizeBytes: MIB }], sizeBytes: MIB });
    expect(() => map.slotAt(0)).toThrow('EBADF');
    map.replaceLayers(layers);
    expect(map.slotAt(0)).toBe(0);
  });

  it('keeps within its bound and stays right over more chunks than have room', () => {
    const sizeBytes = 64 * MIB;
    const layers = [layerOf(sizeBytes), layerOf(sizeBytes)];
    for (let chunk = 0; chunk < 16; chunk += 1) write(layers[1]!, chunk * 1024 + chunk);
    const map = new ExtentMap({ layers, sizeBytes, maxBytes: 3 * 1024 });
    for (let round = 0; round < 3; round += 1) {
      for (let chunk = 0; chunk < 16; chunk += 1) {
        expect(map.slotAt(chunk * CHUNK_BYTES + chunk * BLOCK_BYTES)).toBe(2);
        expect(map.slotAt(chunk * CHUNK_BYTES + (chunk + 1) * BLOCK_BYTES)).toBe(0);
      }
    }
    expect(map.memoryBytes).toBeLessThanOrEqual(3 * 1024);
  });

  it.each([
    [1, 2],
    [5, 2],
    [253, 4],
  ])('agrees with a plain array over random changes, %d layers below the head', (depth, snapshots) => {
    const blocks = 4096;
    const sizeBytes = blocks * BLOCK_BYTES;
    const layers = Array.from({ length: depth + 1 }, () => layerOf(sizeBytes));
    const model = new Uint16Array(blocks);
    let seed = depth * 7919 + 1;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    for (const [index, layer] of layers.entries()) {
      for (let i = 0; i < 400 / layers.length; i += 1) {
        const [block, count] = [random(blocks - 8), 1 + random(8)];
        write(layer, block, count);
        model.fill(index + 1, block, block + count);
      }
    }
    const map = new ExtentMap({ layers, sizeBytes, maxBytes: 2 * 1024 });
    for (let step = 0; step < 600; step += 1) {
      const [block, count] = [random(blocks - 64), 1 + random(64)];
      const [offset, length] = [block * BLOCK_BYTES, count * BLOCK_BYTES];
      const action = random(8);
      if (action < 2) {
        write(layers.at(-1)!, block, count);
        map.markHead(offset, length);
        model.fill(map.headSlot, block, block + count);
      } else if (action === 2) {
        discard(layers.at(-1)!, block, count);
        map.markZeroes(offset, length);
        model.fill(0, block, block + count);
      } else if (action === 3) {
        map.forget(offset, length);
      } else if (step % 150 === 0 && layers.length < depth + 1 + snapshots) {
        layers.push(layerOf(sizeBytes));
        map.pushHead(layers.at(-1)!);
      }
      const [at, size] = [random(blocks - 200), 1 + random(200)];
      const answers: number[] = [];
      for (let done = 0; done < size * BLOCK_BYTES; done += out.coveredBytes) {
        const count = map.resolve(at * BLOCK_BYTES + done, size * BLOCK_BYTES - done, out);
        for (let i = 0; i < count; i += 1) {
          for (let n = out.lengths[i]!; n > 0; n -= BLOCK_BYTES) answers.push(out.slots[i]!);
        }
      }
      expect(answers).toEqual([...model.subarray(at, at + size)]);
    }
    expect(map.memoryBytes).toBeLessThanOrEqual(4 * 1024);
  });
});
