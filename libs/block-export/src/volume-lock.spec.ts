import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { lockVolumeFile } from './volume-lock.js';

describe('the lock of a volume file', () => {
  let directory: string;
  let path: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-lock-'));
    path = join(directory, 'disk.img');
    writeFileSync(path, '');
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('is had once at a time', async () => {
    const unlock = await lockVolumeFile(path);
    await expect(lockVolumeFile(path)).rejects.toThrow(`another process serves ${path}`);
    unlock();
    (await lockVolumeFile(path))();
  });

  it('is waited for while its owner ends', async () => {
    const unlock = await lockVolumeFile(path);
    setTimeout(unlock, 200);
    (await lockVolumeFile(path))();
  });
});
