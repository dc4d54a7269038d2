import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ensureVolumeFile, openVolumeFile, volumeUnitBytes } from './volume-file.js';

const MIB = 2 ** 20;
const writeback = { readOnly: false, cache: 'writeback' } as const;
const openDescriptors = () => readdirSync('/proc/self/fd').length;

describe('a volume file', () => {
  let directory: string;
  let path: string;
  let before: number;

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-file-'));
    path = join(directory, 'disk.img');
  });
  afterAll(() => rmSync(directory, { recursive: true }));
  beforeEach(() => {
    rmSync(path, { force: true });
    before = openDescriptors();
  });
  afterEach(() => expect(openDescriptors()).toBe(before));

  it('is made sparse, grown, and never shrunk', () => {
    ensureVolumeFile(path, 64 * MIB);
    expect(statSync(path)).toMatchObject({ size: 64 * MIB, blocks: 0 });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    ensureVolumeFile(path, 65 * MIB);
    ensureVolumeFile(path, 65 * MIB);
    expect(statSync(path).size).toBe(65 * MIB);
    expect(() => ensureVolumeFile(path, 64 * MIB)).toThrow('never shrink');
    expect(statSync(path).size).toBe(65 * MIB);
  });

  it('opens with its size, and any alignment, through the page cache', () => {
    ensureVolumeFile(path, MIB);
    const { fd, ...file } = openVolumeFile(path, writeback);
    closeSync(fd);
    expect(file).toEqual({ sizeBytes: MIB, memoryMask: 0, offsetMask: 0 });
  });

  it('opens with the alignment that the file system wants, past the page cache', () => {
    ensureVolumeFile(path, MIB);
    const file = openVolumeFile(path, { readOnly: false, cache: 'direct' });
    closeSync(file.fd);
    for (const mask of [file.memoryMask, file.offsetMask]) {
      expect(mask).toBeGreaterThan(0);
      expect((mask + 1) & mask).toBe(0);
    }
    expect(volumeUnitBytes(file)).toBe(Math.max(512, file.offsetMask + 1));
  });

  it.each([
    ['is empty', 0],
    ['ends inside a sector', MIB + 1],
  ])('is refused when it %s', (_, size) => {
    writeFileSync(path, '');
    truncateSync(path, size);
    expect(() => openVolumeFile(path, writeback)).toThrow('must be a multiple of 512 bytes');
  });

  it('is refused when it is not there, with the reason', () => {
    expect(() => openVolumeFile(path, writeback)).toThrow(`cannot open ${path}: ENOENT`);
  });

  it('is refused when it is no file, without waiting for the other end of a FIFO', () => {
    execFileSync('mkfifo', [path]);
    for (const file of [path, directory, '/dev/null'])
      expect(() => openVolumeFile(file, { readOnly: true, cache: 'writeback' })).toThrow(
        'not a regular file',
      );
  });
});
