/** Binary units, in bytes. */
export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

const units: Readonly<Record<string, number>> = { '': 1, K: KIB, M: MIB, G: GIB, T: TIB };
const sizePattern = /^(\d{1,16})(?:([KMGT])(?:i?B)?)?$/i;

/**
 * Reads a size such as `4096`, `512M` or `10G` (binary units; `10GiB` and `10GB` mean the same).
 *
 * Returns `undefined` for anything else, including a size past 2^53 - 1, which no number can hold exactly.
 */
export function parseBytes(text: string): number | undefined {
  const match = sizePattern.exec(text.trim());
  if (!match) return undefined;
  const bytes = Number(match[1]) * (units[(match[2] ?? '').toUpperCase()] ?? NaN);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Writes a size the way a person reads it: `1 GiB`, `1.5 MiB`, `512 B`. */
export function formatBytes(bytes: number): string {
  const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < names.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number(value.toFixed(2))} ${names[unit]}`;
}
