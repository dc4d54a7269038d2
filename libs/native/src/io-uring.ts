/** Numbers of the io_uring interface (linux/io_uring.h). */
export const IO_URING = {
  setup: {
    CQSIZE: 1 << 3,
    CLAMP: 1 << 4,
    SUBMIT_ALL: 1 << 7,
    COOP_TASKRUN: 1 << 8,
    TASKRUN_FLAG: 1 << 9,
    SINGLE_ISSUER: 1 << 12,
    DEFER_TASKRUN: 1 << 13,
  },
  enter: { GETEVENTS: 1 },
  /** Bits of the submission ring's flags word. */
  sqFlag: { CQ_OVERFLOW: 1 << 1, TASKRUN: 1 << 2 },
  feature: { SINGLE_MMAP: 1, NODROP: 2, EXT_ARG: 1 << 8 },
  mmapOffset: { sq: 0, cq: 0x8000000, sqes: 0x10000000 },
  op: {
    NOP: 0,
    READV: 1,
    WRITEV: 2,
    FSYNC: 3,
    POLL_ADD: 6,
    TIMEOUT: 11,
    ASYNC_CANCEL: 14,
    FALLOCATE: 17,
    READ: 22,
    WRITE: 23,
  },
  fsync: { DATASYNC: 1 },
  poll: { ADD_MULTI: 1 },
  cqe: { MORE: 2 },
  rw: { DSYNC: 2 },
  sqeBytes: 64,
  cqeBytes: 16,
} as const;

/**
 * Words of what `ringEnter` is given and gives back (`enter_t` in the addon): its own thread reads and writes it, so that
 * none of that is atomic, and the addon alone touches the words that are shared with the kernel.
 */
export const ENTER_STATE = {
  fd: 0,
  sqTail: 1,
  cqHead: 2,
  /** Bits of the submission ring's flags on which GETEVENTS is asked for. */
  wantedFlags: 3,
  sqHead: 4,
  cqTail: 5,
  sqFlags: 6,
  /** Clock when the kernel was entered, and left: microseconds, wrapped. */
  entered: 7,
  left: 8,
  /** Offsets of the shared words in the mapping of the ring, in bytes. */
  atSqHead: 9,
  atSqTail: 10,
  atSqFlags: 11,
  atCqHead: 12,
  atCqTail: 13,
  /** Address of that mapping, low and high word. */
  ring: 14,
  words: 16,
} as const;

/** Flags of eventfd(2) that a caller may add to the close-on-exec every one gets. */
export const EFD_NONBLOCK = 0o4000;
