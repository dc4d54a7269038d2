/** What a driver can do to break a ring; each is counted under its name. */
export const VIRTQUEUE_FAULTS = [
  'ring-misaligned',
  'ring-outside-memory',
  'ring-size-invalid',
  'ring-base-invalid',
  'ring-base-stale',
  'inflight-invalid',
  'avail-idx-overrun',
  'head-out-of-range',
  'head-in-flight',
  'next-out-of-range',
  'chain-too-long',
  'chain-too-large',
  'descriptor-empty',
  'descriptor-not-available',
  'descriptor-outside-memory',
  'readable-after-writable',
  'indirect-not-negotiated',
  'indirect-nested',
  'indirect-with-next',
  'indirect-size-invalid',
  'header-too-short',
  'status-missing',
] as const;

export type VirtqueueFault = (typeof VIRTQUEUE_FAULTS)[number];

/**
 * A driver broke the rules of its virtqueue. The ring cannot be trusted afterwards: the caller stops it, signals its
 * err eventfd and counts `fault`. No other ring is concerned.
 */
export class VirtqueueError extends Error {
  constructor(
    readonly fault: VirtqueueFault,
    readonly details: Readonly<Record<string, number>> = {},
  ) {
    super(`${fault} ${JSON.stringify(details)}`);
    this.name = 'VirtqueueError';
  }
}
