import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { takeLock } from './directory-lock.js';

describe('takeLock', () => {
  let directory: string;
  let file: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-lock-'));
    file = join(directory, 'lock');
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it('gives the lock back when it is released, and leaves no other file', () => {
    takeLock(file, directory)();
    expect(readdirSync(directory)).toEqual([]);
    takeLock(file, directory)();
  });

  it('refuses a lock whose holder lives, and names it', () => {
    takeLock(file, directory);
    expect(() => takeLock(file, directory)).toThrow(`process ${process.pid} already runs a stack`);
    expect(existsSync(file)).toBe(true);
  });

  it.each([
    ['of a process that has ended', '999999999 123'],
    ['of an earlier process with the pid of a living one', `${process.pid} 1`],
    ['that is empty', ''],
    ['that is not one', 'hello'],
  ])('takes over a lock %s', (_, content) => {
    writeFileSync(file, content);
    takeLock(file, directory)();
    expect(existsSync(file)).toBe(false);
  });
});
