import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { native } from '@cairn/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DiskFile, systemDisk } from './disk.js';

const BLOCK = 4096;
const MIB = 2 ** 20;
const memory = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

// The same file system copies in the kernel or shares blocks; another one has neither, and the bytes come through here.
describe.each([
  ['in the temporary directory', tmpdir(), tmpdir()],
  ['in memory', memory, memory],
  ['from one file system to another', memory, tmpdir()],
])('copying a range %s', (_, source, target) => {
  let directories: string[];
  let from: DiskFile;
  let to: DiskFile;

  beforeEach(async () => {
    directories = [source, target].map((parent) => mkdtempSync(join(parent, 'cairn-copy-')));
    from = await systemDisk.open(join(directories[0]!, 'from'), 'wx+');
    to = await systemDisk.open(join(directories[1]!, 'to'), 'wx+');
    await to.truncate(8 * MIB);
  });
  afterEach(async () => {
    await from.close();
    await to.close();
    for (const directory of directories) rmSync(directory, { recursive: true });
  });

  it('takes all of it to the same place, and nothing beside it', async () => {
    const data = Uint8Array.from({ length: 3 * MIB }, (_unused, i) => (i >> 9) % 251);
    await from.write(data, MIB);
    await to.copyFrom(from, MIB + BLOCK, 2 * MIB);
    const seen = new Uint8Array(2 * MIB);
    await to.read(seen, MIB + BLOCK);
    expect(Buffer.compare(seen, data.subarray(BLOCK, BLOCK + 2 * MIB))).toBe(0);
    expect(native.seekData(to.fd, 0)).toBe(MIB + BLOCK);
    expect(native.seekHole(to.fd, MIB + BLOCK)).toBe(3 * MIB + BLOCK);
  });

  it('takes zeroes that were written as data, not as a hole', async () => {
    await from.write(new Uint8Array(4 * BLOCK), 4 * BLOCK);
    await from.sync();
    await to.copyFrom(from, 4 * BLOCK, 4 * BLOCK);
    expect(native.seekData(to.fd, 0)).toBe(4 * BLOCK);
    expect(native.seekHole(to.fd, 4 * BLOCK)).toBe(8 * BLOCK);
  });
});
