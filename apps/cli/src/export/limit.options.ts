import { type Command, InvalidArgumentError } from 'commander';
import { type RateLimits, rateLimitsOf } from '@cairn/block-export';
import { CliError } from '../cli-error.js';
import { sizeInBytes, wholeNumber } from '../whole-number.js';

/** The options that say how much of a disk its guest may have. */
export interface LimitOptions {
  iops?: number;
  iopsBurst?: number;
  bps?: number;
  bpsBurst?: number;
  burstSeconds?: number;
  iopsUnit?: number;
}

/** Adds the options of a rate limit to a command. */
export const withLimitOptions = (command: Command): Command =>
  command
    .option('--iops <number>', 'requests a second that a guest may have; absent = any', wholeNumber)
    .option('--iops-burst <number>', 'requests a second while burst credits last', wholeNumber)
    .option('--bps <size>', 'bytes a second that a guest may have (bytes, or K, M, G); absent = any', rate)
    .option('--bps-burst <size>', 'bytes a second while burst credits last', rate)
    .option(
      '--burst-seconds <number>',
      'how long full credits last at the burst rate; default 1',
      wholeNumber,
    )
    .option('--iops-unit <size>', 'count a request once for each so many bytes; default: once', sizeInBytes);

/** Limits as they were given on the command line. Throws CliError for a burst that is none. */
export const limitsOf = (options: LimitOptions): RateLimits => {
  const { iops = 0, iopsBurst = 0, bps = 0, bpsBurst = 0, burstSeconds, iopsUnit = 0 } = options;
  if (iopsBurst > 0 && (iops === 0 || iopsBurst <= iops))
    throw new CliError('--iops-burst must be above --iops', 'give both');
  if (bpsBurst > 0 && (bps === 0 || bpsBurst <= bps))
    throw new CliError('--bps-burst must be above --bps', 'give both');
  try {
    return rateLimitsOf({
      iops,
      iopsBurst,
      bytesPerSecond: bps,
      bytesBurst: bpsBurst,
      iopsUnitBytes: iopsUnit,
      ...(burstSeconds !== undefined && { iopsBurstSeconds: burstSeconds, bytesBurstSeconds: burstSeconds }),
    });
  } catch (error) {
    throw new CliError((error as Error).message, undefined, { cause: error });
  }
};

/** Limits in words. */
export const describeLimits = (limits: RateLimits): string => {
  const of = (rate: number, burst: number, seconds: number, unit: string): string => {
    if (rate === 0) return `any ${unit}`;
    return `${rate} ${unit}${burst > 0 ? ` (${burst} for ${seconds} s)` : ''}`;
  };
  return [
    of(limits.iops, limits.iopsBurst, limits.iopsBurstSeconds, 'requests/s'),
    of(limits.bytesPerSecond, limits.bytesBurst, limits.bytesBurstSeconds, 'bytes/s'),
  ].join(', ');
};

const rate = (text: string): number => {
  const bytes = sizeInBytes(text);
  if (bytes <= 2 ** 40) return bytes;
  throw new InvalidArgumentError('It must be 1T at most.');
};
