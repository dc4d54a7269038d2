import { closeSync, constants, fstatSync, ftruncateSync, openSync, statSync } from 'node:fs';
import { check, native } from '@cairn/native';

/** How a volume's file is reached: past the page cache, or through it. A flush is an fdatasync either way. */
export type CacheMode = 'direct' | 'writeback';

/** An open volume file. Offset in the volume = offset in the file. */
export interface VolumeFile {
  /** -1: there is no file, and no data is moved. */
  fd: number;
  sizeBytes: number;
  /** Alignment that memory must have for I/O, minus 1; 0 = any. */
  memoryMask: number;
  /** Alignment that offsets and lengths must have for I/O, minus 1; 0 = any. */
  offsetMask: number;
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
  const direct = options.cache === 'direct';
  const flags =
    (options.readOnly ? constants.O_RDONLY : constants.O_RDWR) | (direct ? constants.O_DIRECT : 0);
  const fd = open(path, flags, direct);
  try {
    const file = fstatSync(fd);
    const [memory, offset] = direct ? alignmentOf(fd) : [1, 1];
    const unit = volumeUnitBytes({ offsetMask: offset - 1 });
    if (file.size === 0 || file.size % unit !== 0) {
      throw new Error(
        `${path} has ${file.size} bytes; a volume must be a multiple of ${unit} bytes (give --size)`,
      );
    }
    return { fd, sizeBytes: file.size, memoryMask: memory - 1, offsetMask: offset - 1 };
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
