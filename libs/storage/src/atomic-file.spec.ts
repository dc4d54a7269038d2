import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { writeFileAtomic } from './atomic-file.js';

describe('a file that is replaced atomically', () => {
  let directory: string;
  let path: string;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-atomic-'));
    path = join(directory, 'state.json');
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('is made, with mode 0600, and replaced, and nothing else is left', async () => {
    await writeFileAtomic(path, 'old');
    await writeFileAtomic(path, 'new');
    expect(readFileSync(path, 'utf8')).toBe('new');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(directory)).toEqual(['state.json']);
  });

  it('is a new file: who has the old one open keeps the old content', async () => {
    writeFileSync(path, 'old');
    const { ino } = statSync(path);
    await writeFileAtomic(path, 'new');
    expect(statSync(path).ino).not.toBe(ino);
  });

  it('keeps what was there when the new one cannot take its place, and leaves no scratch file', async () => {
    mkdirSync(path);
    writeFileSync(join(path, 'precious'), 'old');
    await expect(writeFileAtomic(path, 'new')).rejects.toMatchObject({ code: 'EISDIR' });
    expect(readFileSync(join(path, 'precious'), 'utf8')).toBe('old');
    expect(readdirSync(directory)).toEqual(['state.json']);
  });

  it('rejects when its directory is not there', async () => {
    await expect(writeFileAtomic(join(directory, 'no', 'file'), 'new')).rejects.toMatchObject({
      code: 'ENOENT',
    });
  });

  it('is one content or the other, whole, when several are written at once', async () => {
    const contents = Array.from({ length: 20 }, (_, index) => String(index).repeat(10_000));
    await Promise.all(contents.map((content) => writeFileAtomic(path, content)));
    expect(contents).toContain(readFileSync(path, 'utf8'));
    expect(readdirSync(directory)).toEqual(['state.json']);
  });
});
