import { InvalidArgumentError } from 'commander';

/** Reads a whole number above 0 from a command line. */
export function wholeNumber(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value > 0) return value;
  throw new InvalidArgumentError('It must be a whole number above 0.');
}

const unitBytes: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** Reads a size from a command line: bytes, or a number with K, M, G or T (binary). */
export function sizeInBytes(text: string): number {
  const [, digits, unit = ''] = /^(\d+)([kmgt]?)(?:ib|b)?$/i.exec(text) ?? [];
  const bytes = Number(digits) * (unitBytes[unit.toLowerCase()] ?? Number.NaN);
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new InvalidArgumentError('It must be a size such as 1073741824, 512M or 10G.');
}
