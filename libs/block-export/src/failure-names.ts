import { VIRTQUEUE_FAULTS, type VirtqueueFault } from '@cairn/virtio';

/** Why requests complete with IOERR or UNSUPP, beside the errno names of the kernel that are listed here. */
export const REQUEST_ERRORS = [
  'read-only',
  'out-of-range',
  'length-not-in-sectors',
  'segments-invalid',
  'short-io',
  'device-failed',
  'no-memory',
  'unsupported',
  'EIO',
  'ENOSPC',
  'EDQUOT',
  'EFBIG',
  'EINVAL',
  'EFAULT',
  'EBADF',
  'EOPNOTSUPP',
  'other-errno',
] as const;
export type RequestErrorName = (typeof REQUEST_ERRORS)[number];

const ALL: readonly string[] = [...REQUEST_ERRORS, ...VIRTQUEUE_FAULTS];
const INDEX = new Map(ALL.map((name, index) => [name, index]));

/** Place of a failure's name in the metrics. */
export const nameIndex = (name: RequestErrorName | VirtqueueFault): number => INDEX.get(name)!;

/** The name under which a kernel's error is counted. */
export const errnoError = (name: string): RequestErrorName =>
  (REQUEST_ERRORS as readonly string[]).includes(name) ? (name as RequestErrorName) : 'other-errno';

/** Splits the counts of the metrics into request errors and guest faults, without the zeroes. */
export const byName = (
  counts: readonly number[],
): { errors: Record<string, number>; faults: Record<string, number> } => {
  const pick = (from: number, to: number): Record<string, number> =>
    Object.fromEntries(
      ALL.slice(from, to)
        .map((name, index) => [name, counts[from + index] ?? 0] as const)
        .filter(([, count]) => count > 0),
    );
  return { errors: pick(0, REQUEST_ERRORS.length), faults: pick(REQUEST_ERRORS.length, ALL.length) };
};
