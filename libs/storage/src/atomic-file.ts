import { randomBytes } from 'node:crypto';
import { dirname } from 'node:path';
import { type Disk, systemDisk } from './disk.js';

/** Marks files that `writeFileAtomic` had not finished when the process died; they may be deleted. */
export const SCRATCH_MARK = '.tmp-';

/**
 * Replaces a file so that after a crash either the old or the new content is there, whole and durable.
 *
 * Write, fsync, rename, fsync of the directory: without the last, a power cut may undo the rename. Rejects with the
 * system's error; then either content is there, whole: the new one when only the fsync of the directory failed.
 */
export async function writeFileAtomic(path: string, data: string, disk: Disk = systemDisk): Promise<void> {
  const scratch = `${path}${SCRATCH_MARK}${randomBytes(6).toString('hex')}`;
  try {
    const file = await disk.open(scratch, 'wx+');
    try {
      await file.write(Buffer.from(data), 0);
      await file.sync();
    } finally {
      await file.close();
    }
    await disk.rename(scratch, path);
  } catch (error) {
    await disk.remove(scratch);
    throw error;
  }
  await disk.syncDirectory(dirname(path));
}

/** Makes created, renamed and removed names in a directory durable. */
export const syncDirectory = (path: string): Promise<void> => systemDisk.syncDirectory(path);
