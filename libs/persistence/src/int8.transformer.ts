import type { ValueTransformer } from 'typeorm';

/**
 * int8 as a number: the driver reads int8 as text, since it can exceed 2^53 - 1.
 *
 * Sizes and counters here cannot (64 TiB is 2^46), so a value past the limit is a corrupt row and throws.
 */
export const int8: ValueTransformer = {
  to: (value: unknown) => value,
  from: (value: string | null) => {
    if (value === null) return null;
    const number = Number(value);
    if (!Number.isSafeInteger(number)) throw new RangeError(`int8 value ${value} does not fit a number`);
    return number;
  },
};
