import type { DiskFile } from './disk.js';
import type { LayerFile } from './layer-format.js';

/** An open layer, for the index. */
export const layerFileOf = (
  layer: { sizeBytes: number; zeroMapOffsetBytes: number | null | undefined },
  { fd }: DiskFile,
): LayerFile => ({
  fd,
  sizeBytes: layer.sizeBytes,
  zeroMapOffsetBytes: layer.zeroMapOffsetBytes ?? undefined,
});
