import { readSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { BLOCK_BYTES, type LayerFile } from './layer-format.js';

const ENXIO = -6;

/** Takes one extent, in bytes; returning false ends the walk. */
export type ExtentVisitor = (startBytes: number, endBytes: number) => boolean | void;

/**
 * Walks the data extents of a layer within a range, rounded to whole blocks, in order.
 *
 * Throws SystemError when the file system cannot tell.
 */
export function walkData(layer: LayerFile, start: number, end: number, visit: ExtentVisitor): void {
  const { fd } = layer;
  const limit = Math.min(end, layer.sizeBytes);
  let at = start;
  while (at < limit) {
    const data = native.seekData(fd, at);
    if (data === ENXIO) return;
    if (check('seekData', data) >= limit) return;
    const hole = Math.min(check('seekHole', native.seekHole(fd, data)), limit);
    const first = Math.max(at, data - (data % BLOCK_BYTES));
    const last = Math.min(Math.ceil(hole / BLOCK_BYTES) * BLOCK_BYTES, limit);
    if (visit(first, last) === false) return;
    at = last;
  }
}

const WINDOW_BYTES = 64 * 1024;
const shared = Buffer.alloc(WINDOW_BYTES);

/** Walks the extents that a layer's zero map calls zeroes, data or not, within a range, in order. Throws as `walkData`. */
export function walkZeroes(layer: LayerFile, start: number, end: number, visit: ExtentVisitor): void {
  const { fd, zeroMapOffsetBytes } = layer;
  if (zeroMapOffsetBytes === undefined) return;
  const limit = zeroMapOffsetBytes + Math.ceil(Math.min(end, layer.sizeBytes) / BLOCK_BYTES);
  let at = zeroMapOffsetBytes + Math.floor(start / BLOCK_BYTES);
  let runStart = -1;
  const endRun = (position: number): boolean => {
    if (runStart < 0) return true;
    const from = (runStart - zeroMapOffsetBytes) * BLOCK_BYTES;
    const to = Math.min((position - zeroMapOffsetBytes) * BLOCK_BYTES, layer.sizeBytes);
    runStart = -1;
    return visit(from, to) !== false;
  };
  while (at < limit) {
    const data = native.seekData(fd, at);
    if (data === ENXIO) break;
    if (check('seekData', data) > at) {
      if (!endRun(at)) return;
      if (data >= limit) return;
      at = data;
    }
    const got = readSync(fd, shared, 0, Math.min(WINDOW_BYTES, limit - at), at);
    if (got === 0) break;
    for (let i = 0; i < got; i += 1) {
      if (shared[i] !== 0) {
        if (runStart < 0) runStart = at + i;
      } else if (runStart >= 0 && !endRun(at + i)) return;
    }
    at += got;
  }
  endRun(Math.min(at, limit));
}
