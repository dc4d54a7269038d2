import { randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Marks files that `writeFileAtomic` had not finished when the process died; they may be deleted. */
export const SCRATCH_MARK = '.tmp-';

/**
 * Replaces a file so that after a crash either the old or the new content is there, whole and durable.
 *
 * Write, fsync, rename, fsync of the directory: without the last, a power cut may undo the rename. Rejects with the
 * system's error; then either content is there, whole: the new one when only the fsync of the directory failed.
 */
export async function writeFileAtomic(path: string, data: string): Promise<void> {
  const scratch = `${path}${SCRATCH_MARK}${randomBytes(6).toString('hex')}`;
  try {
    const file = await open(scratch, 'wx', 0o600);
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(scratch, path);
  } catch (error) {
    await rm(scratch, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}

/** Makes created, renamed and removed names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
