import { describe, expect, it } from 'vitest';
import { ConfigurationError, EnvironmentReader } from './configuration.js';

const files: Record<string, string> = { '/secret': ' s3cret\n', '/empty': '\n' };
function readerOf(env: Record<string, string>): EnvironmentReader {
  return new EnvironmentReader(env, (path) => {
    const content = files[path];
    if (content === undefined) throw new Error(`ENOENT: ${path}`);
    return content;
  });
}

function faultsOf(read: (reader: EnvironmentReader) => void, env: Record<string, string>): string[] {
  const reader = readerOf(env);
  read(reader);
  try {
    reader.throwIfFaulty();
  } catch (error) {
    if (error instanceof ConfigurationError) return error.faults.map(({ name }) => name);
    throw error;
  }
  return [];
}

describe('the environment', () => {
  it('gives settings, fallbacks and secrets from files', () => {
    const reader = readerOf({ A: ' x ', B: '', N: '5', W: 'json', S_FILE: '/secret' });
    expect(reader.find('A')).toBe('x');
    expect(reader.find('B')).toBeUndefined();
    expect(reader.text('B', 'fallback')).toBe('fallback');
    expect(reader.integer('N', 1, { min: 0, max: 9 })).toBe(5);
    expect(reader.integer('M', 1, { min: 0, max: 9 })).toBe(1);
    expect(reader.oneOf('W', ['json', 'text'], 'text')).toBe('json');
    expect(reader.secret('S', 'make one')).toBe('s3cret');
    expect(reader.findSecret('T')).toBeUndefined();
    reader.throwIfFaulty();
  });

  it('collects every fault', () => {
    const read = (reader: EnvironmentReader) => {
      reader.integer('N', 1, { min: 0, max: 9 });
      reader.integer('M', 1, { min: 0, max: 9 });
      reader.oneOf('W', ['json', 'text'], 'text');
      reader.secret('S', 'make one');
      reader.checkUrl('U', reader.find('U'), ['http']);
    };
    expect(faultsOf(read, { N: '10', M: 'x', W: 'xml', U: 'ftp://x' })).toEqual(['N', 'M', 'W', 'S', 'U']);
  });

  it('reports one fault for a secret file, whichever', () => {
    const read = (reader: EnvironmentReader) => void reader.secret('S', 'make one');
    expect(faultsOf(read, { S_FILE: '/missing' })).toEqual(['S_FILE']);
    expect(faultsOf(read, { S_FILE: '/empty' })).toEqual(['S_FILE']);
    expect(faultsOf(read, { S: 'a', S_FILE: '/secret' })).toEqual(['S']);
  });

  it('never repeats a URL, which may carry a password, in a fault', () => {
    const reader = readerOf({});
    reader.checkUrl('U', 'nonsense:s3cret', ['http']);
    expect(() => reader.throwIfFaulty()).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('s3cret') }),
    );
  });
});
