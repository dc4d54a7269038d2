/** Feature bits of rings (virtio 1.2 §6, vhost-user "Feature negotiation"). */
export const RING_FEATURE = {
  NOTIFY_ON_EMPTY: 24,
  LOG_ALL: 26,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  PROTOCOL_FEATURES: 30,
  VERSION_1: 32,
  RING_PACKED: 34,
  RING_RESET: 40,
} as const;

/** Feature bits of a block device (virtio 1.2 §5.2.3). */
export const BLK_FEATURE = {
  SIZE_MAX: 1,
  SEG_MAX: 2,
  GEOMETRY: 4,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
} as const;

/** Descriptor flags (virtio 1.2 §2.7.5). */
export const DESC = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;

/** Request types (virtio 1.2 §5.2.6). */
export const BLK_TYPE = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  DISCARD: 11,
  WRITE_ZEROES: 13,
  SECURE_ERASE: 14,
} as const;

/** Status bytes (virtio 1.2 §5.2.6). */
export const BLK_STATUS = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

/** A feature word with these bits set. */
export const bits = (...numbers: number[]): bigint =>
  numbers.reduce((word, bit) => word | (1n << BigInt(bit)), 0n);
