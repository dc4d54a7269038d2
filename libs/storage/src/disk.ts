import { readFile, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { check, errnoName, native } from '@cairn/native';

// What the store asks of a file system, and nothing else: so a test can write down each effect, in order, and try what
// a power cut may leave of them.

const PUNCH_KEEP_SIZE = 3;
const STAT_BLOCK_BYTES = 512;
const COPY_BYTES = 1024 * 1024;
/** In steps, as the call is made on this thread. */
const KERNEL_COPY_BYTES = 512 * 1024;
const NO_REFLINK = new Set(['EOPNOTSUPP', 'ENOTTY', 'EXDEV', 'EINVAL', 'ENOSYS']);
const NO_KERNEL_COPY = new Set(['EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOSYS']);

/** An open file. Offsets and lengths are in bytes; every failure is the system's error. */
export interface DiskFile {
  readonly fd: number;
  /** Fills the buffer from a position; less than all of it only at the end of the file. Resolves to the bytes read. */
  read(into: Uint8Array, position: number): Promise<number>;
  /** Writes all of it. */
  write(from: Uint8Array, position: number): Promise<void>;
  truncate(sizeBytes: number): Promise<void>;
  /** Makes a hole; the file keeps its size. */
  punch(position: number, lengthBytes: number): Promise<void>;
  /** Copies a range to the same place here: shared where the file system can, else its bytes. Whole blocks only. */
  copyFrom(source: DiskFile, position: number, lengthBytes: number): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** The file system below a pool. */
export interface Disk {
  open(path: string, flags: 'r' | 'r+' | 'wx+'): Promise<DiskFile>;
  rename(from: string, to: string): Promise<void>;
  /** Removes a file; one that is not there is no error. */
  remove(path: string): Promise<void>;
  /** Makes created, renamed and removed names in a directory durable. */
  syncDirectory(path: string): Promise<void>;
  readText(path: string): Promise<string>;
  list(directory: string): Promise<string[]>;
  /** Undefined when there is no such file. */
  stat(path: string): Promise<{ sizeBytes: number; allocatedBytes: number } | undefined>;
}

/** The file system that this machine has. */
export const systemDisk: Disk = {
  async open(path, flags) {
    const file = await open(path, flags, 0o600);
    const self: DiskFile = {
      fd: file.fd,
      async read(into, position) {
        let done = 0;
        while (done < into.length) {
          const { bytesRead } = await file.read(into, done, into.length - done, position + done);
          if (bytesRead === 0) break;
          done += bytesRead;
        }
        return done;
      },
      async write(from, position) {
        let done = 0;
        while (done < from.length) {
          const { bytesWritten } = await file.write(from, done, from.length - done, position + done);
          done += bytesWritten;
        }
      },
      truncate: (sizeBytes) => file.truncate(sizeBytes),
      async punch(position, lengthBytes) {
        check('fallocate', native.allocate(file.fd, PUNCH_KEEP_SIZE, position, lengthBytes));
      },
      copyFrom: (source, position, lengthBytes) => copyRange(self, source, position, lengthBytes),
      sync: () => file.sync(),
      close: () => file.close(),
    };
    return self;
  },
  rename,
  remove: (path) => rm(path, { force: true }),
  async syncDirectory(path) {
    const directory = await open(path, 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  },
  readText: (path) => readFile(path, 'utf8'),
  list: (directory) => readdir(directory),
  async stat(path) {
    try {
      const { size, blocks } = await stat(path);
      return { sizeBytes: size, allocatedBytes: blocks * STAT_BLOCK_BYTES };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  },
};

const copyRange = async (to: DiskFile, from: DiskFile, position: number, length: number): Promise<void> => {
  const cloned = native.cloneRange(to.fd, position, from.fd, position, length);
  if (cloned === 0 || !has(NO_REFLINK, 'FICLONERANGE', cloned)) return;
  if (await copyInKernel(to, from, position, length)) return;
  const buffer = Buffer.allocUnsafe(Math.min(length, COPY_BYTES));
  for (let done = 0; done < length;) {
    const part = buffer.subarray(0, Math.min(COPY_BYTES, length - done));
    const got = await from.read(part, position + done);
    if (got === 0) return;
    await to.write(part.subarray(0, got), position + done);
    done += got;
  }
};

/** Copies without taking the bytes here; false when the file system does not, or makes holes of zeroes. */
const copyInKernel = async (
  to: DiskFile,
  from: DiskFile,
  position: number,
  length: number,
): Promise<boolean> => {
  for (let done = 0; done < length;) {
    const at = position + done;
    const got = native.copyRange(to.fd, at, from.fd, at, Math.min(KERNEL_COPY_BYTES, length - done));
    if (got < 0 && has(NO_KERNEL_COPY, 'copy_file_range', got)) return false;
    if (got === 0) return false;
    done += got;
    await setImmediate();
  }
  // What is a hole here would show what a layer below has.
  return native.seekHole(to.fd, position) >= position + length;
};

/** Is it an error that says that something cannot be done here? Throws any other. */
const has = (codes: ReadonlySet<string>, call: string, result: number): boolean => {
  if (codes.has(errnoName(-result))) return true;
  check(call, result);
  return false;
};
