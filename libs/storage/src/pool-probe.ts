import { randomBytes } from 'node:crypto';
import { type FileHandle, open, readFile, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { check, native } from '@cairn/native';
import { SCRATCH_MARK } from './atomic-file.js';
import { BLOCK_BYTES } from './layer-format.js';
import { StorageError, storageErrorOf } from './storage-error.js';

const HOLE_BYTES = 1024 * 1024;
const FILE_BYTES = 16 * 1024 * 1024;
const PUNCH_KEEP_SIZE = 3;
const ENXIO = -6;

/** Where a zero map may begin, the farthest first: ext4 with 4 KiB blocks takes files of 16 TiB, others of far more. */
const ZERO_MAP_OFFSETS = [2 ** 52, 2 ** 43, 2 ** 41, 2 ** 39];

/** What a pool's file system can do. */
export interface PoolAbilities {
  /** Files can share blocks, so that folding layers copies nothing. */
  reflink: boolean;
  /** Alignment that O_DIRECT needs of memory, and of offsets and lengths, in bytes; 0: unknown, or no O_DIRECT. */
  directMemoryAlignment: number;
  directOffsetAlignment: number;
  /** Where layers have their zero map; also the most that a layer over a parent can hold. */
  zeroMapOffsetBytes: number;
  /** What a successful fsync is worth, as far as it can be seen. */
  fsync: FsyncPromise;
}

/**
 * `in-memory`: nothing outlives the host; `no-barriers`: mounted so that a disk's cache is not flushed; `as-told`: whether
 * the disk tells the truth cannot be seen.
 */
export type FsyncPromise = 'in-memory' | 'no-barriers' | 'as-told';

const TMPFS = 0x0102_1994;
const RAMFS = 0x8584_58f6;

/**
 * Proves that a directory's file system can hold volumes: a block written into a hole must show as exactly that data,
 * and a hole punched into data as exactly that hole, because which blocks a layer has is read from the file system's
 * extent map; and an fsync must succeed. Tells what else it can do.
 *
 * Rejects with StorageError: `pool-full`, `pool-not-writable`, or `pool-unsuitable` with what was seen.
 */
export async function probePool(directory: string): Promise<PoolAbilities> {
  const path = join(directory, `probe${SCRATCH_MARK}${randomBytes(6).toString('hex')}`);
  const copy = `${path}-copy`;
  const files: FileHandle[] = [];
  try {
    const file = await open(path, 'wx+', 0o600);
    files.push(file);
    await file.truncate(FILE_BYTES);
    await file.write(Buffer.alloc(BLOCK_BYTES, 0xa5), 0, BLOCK_BYTES, HOLE_BYTES);
    await file.sync();
    const { fd } = file;
    await expectExtent(directory, fd, HOLE_BYTES, 'in a hole');
    await file.write(Buffer.alloc(3 * BLOCK_BYTES, 0x5a), 0, 3 * BLOCK_BYTES, HOLE_BYTES);
    check('fallocate', native.allocate(fd, PUNCH_KEEP_SIZE, HOLE_BYTES, BLOCK_BYTES));
    check('fallocate', native.allocate(fd, PUNCH_KEEP_SIZE, HOLE_BYTES + 2 * BLOCK_BYTES, BLOCK_BYTES));
    await expectExtent(directory, fd, HOLE_BYTES + BLOCK_BYTES, 'between two punched holes');
    await file.sync();
    const other = await open(copy, 'wx+', 0o600);
    files.push(other);
    const [memory, offset] = alignmentOf(fd);
    const abilities = {
      reflink: native.cloneRange(other.fd, 0, fd, 0, FILE_BYTES) === 0,
      directMemoryAlignment: memory,
      directOffsetAlignment: offset,
      zeroMapOffsetBytes: await farthestZeroMap(file),
      fsync: await fsyncPromiseOf(directory),
    };
    return abilities;
  } catch (error) {
    throw storageErrorOf('probe pool', directory, error);
  } finally {
    for (const file of files) await file.close();
    await rm(path, { force: true });
    await rm(copy, { force: true });
  }
}

/** Throws `pool-unsuitable` unless one block is all the data that the file has. */
async function expectExtent(directory: string, fd: number, at: number, where: string): Promise<void> {
  const data = native.seekData(fd, 0);
  const hole = native.seekHole(fd, at);
  const after = native.seekData(fd, at + BLOCK_BYTES);
  if (data === at && hole === at + BLOCK_BYTES && after === ENXIO) return;
  const type = `0x${(await statfs(directory)).type.toString(16)}`;
  throw new StorageError('pool-unsuitable', {
    op: 'probe pool',
    path: directory,
    reason: `a block of ${BLOCK_BYTES} bytes ${where} shows as data ${data}…${hole} (file system type ${type})`,
    remedy: 'Use ext4, XFS, Btrfs or tmpfs with 4 KiB blocks',
  });
}

function alignmentOf(fd: number): [number, number] {
  const out = new Uint32Array(2);
  if (native.directAlignment(fd, out) < 0) return [0, 0];
  return [out[0]!, out[1]!];
}

async function farthestZeroMap(file: FileHandle): Promise<number> {
  for (const offset of ZERO_MAP_OFFSETS) {
    try {
      await file.truncate(offset + offset / BLOCK_BYTES);
      return offset;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EFBIG' && code !== 'EINVAL') throw error;
    }
  }
  throw new StorageError('pool-unsuitable', {
    op: 'probe pool',
    reason: `the file system takes no files of ${ZERO_MAP_OFFSETS.at(-1)} bytes`,
    remedy: 'Use ext4, XFS, Btrfs or tmpfs with 4 KiB blocks',
  });
}

async function fsyncPromiseOf(directory: string): Promise<FsyncPromise> {
  const { type } = await statfs(directory);
  if (type === TMPFS || type === RAMFS) return 'in-memory';
  const { dev } = await stat(directory);
  const mounts = await readFile('/proc/self/mountinfo', 'utf8').catch(() => '');
  return hasNoBarriers(mounts, dev) ? 'no-barriers' : 'as-told';
}

/** Is the file system of a device mounted without write barriers? `mounts` is /proc/self/mountinfo, of proc(5). */
export const hasNoBarriers = (mounts: string, dev: number): boolean => {
  // As makedev(3) has them.
  const major = Math.floor(dev / 256) % 4096;
  const minor = (dev % 256) + Math.floor(dev / 2 ** 20) * 256;
  return mounts.split('\n').some((line) => {
    const [, , device] = line.split(' ');
    const options = line.split(' ').at(-1)!.split(',');
    return (
      device === `${major}:${minor}` && options.some((each) => each === 'nobarrier' || each === 'barrier=0')
    );
  });
};
