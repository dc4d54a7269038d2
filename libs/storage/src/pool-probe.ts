import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { native } from '@cairn/native';
import { SCRATCH_MARK } from './atomic-file.js';
import { StorageError, storageErrorOf } from './storage-error.js';

const BLOCK_BYTES = 4096;
const HOLE_BYTES = 1024 * 1024;
const FILE_BYTES = 16 * 1024 * 1024;

/**
 * Proves that a directory's file system can hold volumes: a block written into a hole must show as exactly that data,
 * because which blocks a layer has is read from the file system's extent map, and an fsync must succeed.
 *
 * Rejects with StorageError: `pool-full`, `pool-not-writable`, or `pool-unsuitable` with what was seen.
 */
export async function probePool(directory: string): Promise<void> {
  const path = join(directory, `probe${SCRATCH_MARK}${randomBytes(6).toString('hex')}`);
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'wx+', 0o600);
    await file.truncate(FILE_BYTES);
    await file.write(Buffer.alloc(BLOCK_BYTES, 0xa5), 0, BLOCK_BYTES, HOLE_BYTES);
    await file.sync();
    const { fd } = file;
    const seen = [
      native.seekData(fd, 0),
      native.seekHole(fd, HOLE_BYTES),
      native.seekData(fd, HOLE_BYTES + BLOCK_BYTES),
    ];
    const [data, hole, after] = seen;
    const ENXIO = -6;
    if (data !== HOLE_BYTES || hole !== HOLE_BYTES + BLOCK_BYTES || after !== ENXIO) {
      const type = `0x${(await statfs(directory)).type.toString(16)}`;
      throw new StorageError('pool-unsuitable', {
        op: 'probe pool',
        path: directory,
        reason: `a block of ${BLOCK_BYTES} bytes in a hole shows as data ${data}…${hole} (file system type ${type})`,
        remedy: 'Use ext4, XFS, Btrfs or tmpfs with 4 KiB blocks',
      });
    }
  } catch (error) {
    throw storageErrorOf('probe pool', directory, error);
  } finally {
    await file?.close();
    await rm(path, { force: true });
  }
}
