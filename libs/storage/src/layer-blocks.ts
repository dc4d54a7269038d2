import { check, native } from '@cairn/native';
import { walkData, walkZeroes } from './extents.js';
import { BLOCK_BYTES, type LayerFile } from './layer-format.js';

const ENXIO = -6;

/** What a layer says of a block. */
export const SAYS = { nothing: 0, data: 1, zeroes: 2 } as const;

/** Fills `into` with what a layer says of the blocks from `start` (at a block) on. Throws SystemError. */
export function readBlocks(layer: LayerFile, start: number, into: Uint8Array): void {
  const end = start + into.length * BLOCK_BYTES;
  into.fill(SAYS.nothing);
  walkZeroes(layer, start, end, (from, to) => {
    into.fill(SAYS.zeroes, (from - start) / BLOCK_BYTES, Math.ceil((to - start) / BLOCK_BYTES));
  });
  walkData(layer, start, end, (from, to) => {
    into.fill(SAYS.data, (from - start) / BLOCK_BYTES, Math.ceil((to - start) / BLOCK_BYTES));
  });
}

/**
 * Where a layer may next say something of a block, from an offset (at a block) on; undefined when it says no more.
 * It errs on the early side only. Throws SystemError.
 */
export function nextSaid(layer: LayerFile, offsetBytes: number): number | undefined {
  const { fd, sizeBytes, zeroMapOffsetBytes } = layer;
  if (offsetBytes >= sizeBytes) return undefined;
  const data = native.seekData(fd, offsetBytes);
  if (data !== ENXIO) check('seekData', data);
  let next = data === ENXIO || data >= sizeBytes ? sizeBytes : Math.floor(data / BLOCK_BYTES) * BLOCK_BYTES;
  if (zeroMapOffsetBytes !== undefined) {
    const byte = native.seekData(fd, zeroMapOffsetBytes + offsetBytes / BLOCK_BYTES);
    if (byte !== ENXIO) next = Math.min(next, (check('seekData', byte) - zeroMapOffsetBytes) * BLOCK_BYTES);
  }
  return next < sizeBytes ? Math.max(next, offsetBytes) : undefined;
}

/** Calls `visit` for each run of blocks of one kind, as ranges of the volume, in order; kind 0 is left out. */
export async function eachRun(
  blocks: Uint8Array,
  start: number,
  visit: (kind: number, offsetBytes: number, lengthBytes: number) => Promise<void>,
): Promise<void> {
  for (let first = 0; first < blocks.length;) {
    const kind = blocks[first]!;
    let last = first + 1;
    while (last < blocks.length && blocks[last] === kind) last += 1;
    if (kind !== 0) await visit(kind, start + first * BLOCK_BYTES, (last - first) * BLOCK_BYTES);
    first = last;
  }
}
