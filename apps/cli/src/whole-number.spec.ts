import { describe, expect, it } from 'vitest';
import { sizeInBytes, wholeNumber } from './whole-number.js';

describe('numbers of the command line', () => {
  it('reads sizes in bytes and in binary units', () => {
    expect(['4096', '1k', '512M', '10G', '2T', '1GiB'].map(sizeInBytes)).toEqual([
      4096,
      1024,
      512 * 2 ** 20,
      10 * 2 ** 30,
      2 * 2 ** 40,
      2 ** 30,
    ]);
  });

  it.each(['', '0', '-1', '1.5G', '10 G', 'G', '1e9', '0x10', '99999999999T'])(
    'refuses the size %j',
    (text) => {
      expect(() => sizeInBytes(text)).toThrow(/size/);
    },
  );

  it.each(['', '0', '-1', '1.5', 'two', '1e3'])('refuses the number %j', (text) => {
    expect(() => wholeNumber(text)).toThrow(/whole number/);
  });
});
