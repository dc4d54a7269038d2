import type { ChainLayer } from './chain.js';
import type { Disk, DiskFile } from './disk.js';
import { layerFileOf } from './layer-file.js';
import type { LayerFile } from './layer-format.js';
import { storageErrorOf } from './storage-error.js';

const ATTEMPTS = 5;

/** A layer that is open for reading. */
export interface OpenLayer {
  layer: ChainLayer;
  disk: DiskFile;
  file: LayerFile;
}

/**
 * Opens layers for reading, runs something with them, and closes them.
 *
 * `layersOf` is asked again when a file is gone: a fold gave its layer another file meanwhile. What is open stays right.
 */
export async function withOpenLayers<T>(
  disk: Disk,
  layersOf: () => readonly ChainLayer[],
  work: (layers: readonly OpenLayer[]) => Promise<T>,
): Promise<T> {
  const open: OpenLayer[] = [];
  const closeAll = async (): Promise<void> => {
    for (const { disk: file } of open.splice(0)) await file.close();
  };
  for (let attempt = 1; ; attempt += 1) {
    const layers = layersOf();
    try {
      for (const layer of layers) {
        const file = await disk.open(layer.path, 'r');
        const zeroMapOffsetBytes = layer.zeroMapOffsetBytes ?? null;
        open.push({ layer, disk: file, file: layerFileOf({ ...layer, zeroMapOffsetBytes }, file) });
      }
      break;
    } catch (error) {
      await closeAll();
      const gone = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (!gone || attempt === ATTEMPTS) throw storageErrorOf('open layer', layers[0]?.path ?? '', error);
    }
  }
  try {
    return await work(open);
  } finally {
    await closeAll();
  }
}
