import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { BLOCK_BYTES, type ChainLayer, type LayerFile, type VolumeChain } from '@cairn/storage';
import { type CacheMode, openImage, type VolumeFile } from './volume-file.js';

/** One layer of a served volume, open. Plain data, so that any thread can be told. */
export interface OpenLayer extends LayerFile {
  id: string;
  path: string;
  /** Where requests go: past the page cache in the mode `direct`. May be the same as `fd`, which never is past it. */
  ioFd: number;
}

export interface ChainOptions {
  readOnly: boolean;
  cache: CacheMode;
}

/**
 * Opens the layers of a chain that are not open yet; the others are taken from `before`, whose head may be a parent now.
 * Throws an Error that says what is wrong; then nothing more is open than before.
 */
export const openChain = (chain: VolumeChain, options: ChainOptions, before?: VolumeFile): VolumeFile => {
  const opened: OpenLayer[] = [];
  const masks = { memory: before?.memoryMask ?? 0, offset: before?.offsetMask ?? 0 };
  try {
    const layers = chain.layers.map((layer, index) => {
      const isHead = index === chain.layers.length - 1;
      const found = before?.layers?.find(({ id, path }) => id === layer.id && path === layer.path);
      if (found)
        return { ...found, sizeBytes: layer.sizeBytes, zeroMapOffsetBytes: layer.zeroMapOffsetBytes };
      const open = openLayer(layer, { ...options, readOnly: options.readOnly || !isHead });
      opened.push(open.layer);
      masks.memory = Math.max(masks.memory, open.memoryMask);
      masks.offset = Math.max(masks.offset, open.offsetMask);
      return open.layer;
    });
    if (masks.offset >= BLOCK_BYTES && layers.length > 1) {
      throw new Error(
        `${layers[0]!.path} takes units of ${masks.offset + 1} bytes past the page cache, more than a block of a layer: use the cache mode writeback`,
      );
    }
    const fd = layers.at(-1)!.ioFd;
    const { memory: memoryMask, offset: offsetMask } = masks;
    const file = { fd, sizeBytes: chain.sizeBytes, memoryMask, offsetMask, layers };
    if (layers.length === 1) return file;
    return { ...file, zeroFd: before?.zeroFd ?? openSync('/dev/zero', constants.O_RDONLY) };
  } catch (error) {
    for (const layer of opened) closeLayer(layer);
    throw error;
  }
};

/**
 * Puts a predecessor's open head in the place of the one that was opened: with it goes what the kernel has still to tell
 * of writes that failed. Owns `fd` from now on. Throws an Error when it is another file.
 */
export const adoptHead = (file: VolumeFile, fd: number): VolumeFile => {
  const [one, other] = [fstatSync(fd), fstatSync(file.fd)];
  if (one.dev !== other.dev || one.ino !== other.ino) {
    closeSync(fd);
    throw new Error('the file that was handed over is not the head of the volume');
  }
  closeSync(file.fd);
  const head = file.layers?.at(-1);
  if (!head) return { ...file, fd };
  const adopted = { ...head, ioFd: fd, fd: head.fd === head.ioFd ? fd : head.fd };
  return { ...file, fd, layers: [...file.layers!.slice(0, -1), adopted] };
};

export const hasParents = ({ layers }: Pick<VolumeFile, 'layers'>): boolean =>
  layers !== undefined && layers.length > 1;

/** Closes what is open of a volume, but for what `kept` has, too. */
export const closeVolumeFile = (file: VolumeFile, kept?: VolumeFile): void => {
  const keeps = new Set(kept?.layers?.map(({ fd }) => fd));
  for (const layer of file.layers ?? []) if (!keeps.has(layer.fd)) closeLayer(layer);
  if (file.zeroFd !== undefined && file.zeroFd !== kept?.zeroFd) closeSync(file.zeroFd);
  if (!file.layers && file.fd >= 0) closeSync(file.fd);
};

const openLayer = (
  { id, path, sizeBytes, zeroMapOffsetBytes }: ChainLayer,
  options: ChainOptions,
): { layer: OpenLayer; memoryMask: number; offsetMask: number } => {
  const { fd: ioFd, memoryMask, offsetMask } = openImage(path, options);
  try {
    // The zero map is read and written in bytes, which O_DIRECT does not take.
    const fd =
      options.cache === 'writeback'
        ? ioFd
        : openSync(path, options.readOnly ? constants.O_RDONLY : constants.O_RDWR);
    return { layer: { id, path, fd, ioFd, sizeBytes, zeroMapOffsetBytes }, memoryMask, offsetMask };
  } catch (error) {
    closeSync(ioFd);
    throw error;
  }
};

const closeLayer = ({ fd, ioFd }: OpenLayer): void => {
  closeSync(fd);
  if (ioFd !== fd) closeSync(ioFd);
};
