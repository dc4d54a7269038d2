import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DataDirectory, newApiKey, newToken } from './data-directory.js';

describe('DataDirectory', () => {
  let parent: string;
  beforeEach(() => {
    parent = mkdtempSync(join(tmpdir(), 'cairn-data-'));
  });
  afterEach(() => rmSync(parent, { recursive: true, force: true }));

  it('is what is asked for, else the setting, else .cairn here', () => {
    expect(DataDirectory.resolve('/a', { CAIRN_DATA_DIR: '/b' }).path).toBe('/a');
    expect(DataDirectory.resolve(undefined, { CAIRN_DATA_DIR: '/b' }).path).toBe('/b');
    expect(DataDirectory.resolve(undefined, {}).path).toBe(join(process.cwd(), '.cairn'));
  });

  it('lets nobody else into what is secret or belongs to guests', () => {
    const directory = new DataDirectory(join(parent, 'data'));
    directory.prepare();
    for (const path of [directory.pool, directory.state, directory.logs, join(directory.path, 'secrets')]) {
      expect(statSync(path).mode & 0o077, path).toBe(0);
    }
  });

  it('makes a secret once, closed to others', () => {
    const directory = new DataDirectory(parent);
    directory.prepare();
    const made = directory.ensureSecret('x', newToken);
    expect(made).toMatchObject({ isNew: true, file: directory.secretFile('x') });
    expect(directory.ensureSecret('x', newToken)).toEqual({ ...made, isNew: false });
    expect(statSync(made.file).mode & 0o777).toBe(0o600);
  });

  it('makes keys and tokens of 256 random bits', () => {
    expect(newApiKey()).toMatch(/^cairn_[0-9a-f]{16}_[A-Za-z0-9_-]{43}$/);
    expect(newToken()).not.toBe(newToken());
  });

  it('keeps sockets elsewhere when its own path is too long for them', () => {
    expect(new DataDirectory('/data').sockets).toBe('/data/sockets');
    const long = new DataDirectory(`/${'x'.repeat(90)}`);
    expect(Buffer.byteLength(`${long.sockets}/vol-0123456789abcdef0.sock`)).toBeLessThanOrEqual(107);
  });

  it('finds the endpoint that a stack left, and nothing in a damaged file', () => {
    const directory = new DataDirectory(parent);
    expect(directory.findEndpoint()).toBeUndefined();
    directory.writeEndpoint('http://127.0.0.1:1');
    expect(directory.findEndpoint()).toBe('http://127.0.0.1:1');
    writeFileSync(join(parent, 'endpoint.json'), '{"url": 7');
    expect(directory.findEndpoint()).toBeUndefined();
  });

  it('says what to do when it cannot be made', () => {
    writeFileSync(join(parent, 'file'), '');
    expect(() => new DataDirectory(join(parent, 'file', 'data')).prepare()).toThrow(/cannot write to/);
  });
});
