import { closeSync, constants, fstatSync, ftruncateSync, openSync, statSync } from 'node:fs';
import { check, native } from '@cairn/native';
import type { OpenLayer } from './layer-files.js';

/** How a volume's file is reached: past the page cache, or through it. A flush is an fdatasync either way. */
export type CacheMode = 'direct' | 'writeback';

/** The open file of a volume, or its files; offset in the volume = offset in each. */
export interface VolumeFile {
  /** The file, or the head of several; -1: there is none, and no data is moved. */
  fd: number;
  sizeBytes: number;
  /** Alignment that memory must have for I/O, minus 1; 0 = any. */
  memoryMask: number;
  /** Alignment that offsets and lengths must have for I/O, minus 1; 0 = any. */
  offsetMask: number;
  /** The chain that the volume is read from, the bottom layer first and the head last; undefined for a plain file. */
  layers?: readonly OpenLayer[];
  /** /dev/zero, where there are several layers: what none of them has is read from it. */
  zeroFd?: number;
}

/** What a volume's size must be a multiple of, in bytes. */
export const volumeUnitBytes = (file: Pick<VolumeFile, 'offsetMask'>): number =>
  Math.max(SECTOR_BYTES, file.offsetMask + 1);

const FALLBACK_ALIGNMENT = 4096; // where statx tells nothing: what every device takes
const SECTOR_BYTES = 512;

/** Opens a volume's file. Throws an Error that says what is wrong and what to do. */
export const openVolumeFile = (
  path: string,
  options: { readOnly: boolean; cache: CacheMode },
): VolumeFile => {
  const image = openImage(path, options);
  try {
    const { size } = fstatSync(image.fd);
    const unit = volumeUnitBytes(image);
    if (size === 0 || size % unit !== 0) {
      throw new Error(
        `${path} has ${size} bytes; a volume must be a multiple of ${unit} bytes (give --size)`,
      );
    }
    return { ...image, sizeBytes: size };
  } catch (error) {
    closeSync(image.fd);
    throw error;
  }
};

/** Opens a file with a volume's bytes, whatever its size, and tells what I/O to it must be aligned to. Throws likewise. */
export const openImage = (
  path: string,
  options: { readOnly: boolean; cache: CacheMode },
): Pick<VolumeFile, 'fd' | 'memoryMask' | 'offsetMask'> => {
  const direct = options.cache === 'direct';
  const flags =
    (options.readOnly ? constants.O_RDONLY : constants.O_RDWR) | (direct ? constants.O_DIRECT : 0);
  const fd = open(path, flags, direct);
  try {
    const [memory, offset] = direct ? alignmentOf(fd) : [1, 1];
    return { fd, memoryMask: memory - 1, offsetMask: offset - 1 };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
};

/** Makes the file when it does not exist, or grows it, to `sizeBytes`; never shrinks. Sparse: no space is taken. */
export const ensureVolumeFile = (path: string, sizeBytes: number): void => {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    const before = fstatSync(fd).size;
    if (before > sizeBytes) {
      throw new Error(
        `${path} has ${before} bytes, more than the ${sizeBytes} asked for; volumes never shrink`,
      );
    }
    if (before < sizeBytes) ftruncateSync(fd, sizeBytes);
  } finally {
    closeSync(fd);
  }
};

const open = (path: string, flags: number, direct: boolean): number => {
  // Before it is opened: opening a FIFO waits for its other end, and this thread must never wait.
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === false)
    throw new Error(`${path} is not a regular file; only files can be exported`);
  try {
    return openSync(path, flags);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (direct && code === 'EINVAL') {
      throw new Error(`the file system of ${path} has no O_DIRECT: use the cache mode writeback`, { cause });
    }
    throw new Error(`cannot open ${path}: ${String(code)}`, { cause });
  }
};

const alignmentOf = (fd: number): [number, number] => {
  const out = new Uint32Array(2);
  check('statx', native.directAlignment(fd, out));
  const [memory, offset] = out;
  return memory && offset ? [memory, offset] : [FALLBACK_ALIGNMENT, FALLBACK_ALIGNMENT];
};
