import { describe, expect, it } from 'vitest';
import { CpioArchive } from './cpio-archive.js';

interface Entry {
  name: string;
  mode: number;
  content: string;
}

/** Reads an archive back, as the kernel's unpacker does. */
function read(archive: Buffer): Entry[] {
  const entries: Entry[] = [];
  const field = (offset: number, index: number) =>
    Number.parseInt(archive.toString('latin1', offset + 6 + index * 8, offset + 14 + index * 8), 16);
  for (let offset = 0; offset < archive.length;) {
    expect(archive.toString('latin1', offset, offset + 6)).toBe('070701');
    const [mode, size, nameSize] = [field(offset, 1), field(offset, 6), field(offset, 11)];
    const name = archive.toString('utf8', offset + 110, offset + 110 + nameSize - 1);
    const start = (offset + 110 + nameSize + 3) & ~3;
    entries.push({ name, mode, content: archive.toString('utf8', start, start + size) });
    offset = (start + size + 3) & ~3;
  }
  return entries;
}

describe('CpioArchive', () => {
  it('writes files with the directories above them, each once and first', () => {
    const archive = new CpioArchive();
    archive.addFile({ path: '/a/b/one', mode: 0o755, content: Buffer.from('1') });
    archive.addFile({ path: 'a/b/two', mode: 0o644, content: Buffer.from('twotwo') });
    archive.addLink('a/link', 'b/one');
    expect(read(archive.finish())).toEqual([
      { name: 'a', mode: 0o040755, content: '' },
      { name: 'a/b', mode: 0o040755, content: '' },
      { name: 'a/b/one', mode: 0o100755, content: '1' },
      { name: 'a/b/two', mode: 0o100644, content: 'twotwo' },
      { name: 'a/link', mode: 0o120777, content: 'b/one' },
      { name: 'TRAILER!!!', mode: 0, content: '' },
    ]);
  });

  it('pads every header and content to four bytes', () => {
    for (let length = 0; length < 5; length++) {
      const archive = new CpioArchive();
      archive.addFile({ path: 'x'.repeat(length + 1), mode: 0o644, content: Buffer.alloc(length) });
      expect(archive.finish().length % 4).toBe(0);
    }
  });
});
