import { randomBytes } from 'node:crypto';
import { dirname } from 'node:path';
import { type Disk, systemDisk } from './disk.js';

/** Marks files that `writeFileAtomic` had not finished when the process died; they may be deleted. */
export const SCRATCH_MARK = '.tmp-';

/** A replacement that failed so late that either content may be found: now, or after a power cut. */
export class UncertainReplacement extends Error {
  /** The system's. */
  readonly code: string | undefined;

  constructor(path: string, cause: unknown) {
    super(`it is not known what ${path} has`, { cause });
    this.code = (cause as NodeJS.ErrnoException).code;
  }
}

/**
 * Replaces a file so that after a crash either the old or the new content is there, whole and durable.
 *
 * Write, fsync, rename, fsync of the directory: without the last, a power cut may undo the rename. Rejects with the
 * system's error when nothing was replaced, as on a full file system, else with UncertainReplacement.
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
  } catch (error) {
    await disk.remove(scratch);
    throw error;
  }
  try {
    await disk.rename(scratch, path);
    await disk.syncDirectory(dirname(path));
  } catch (error) {
    await disk.remove(scratch);
    throw new UncertainReplacement(path, error);
  }
}

/** Makes created, renamed and removed names in a directory durable. */
export const syncDirectory = (path: string): Promise<void> => systemDisk.syncDirectory(path);
