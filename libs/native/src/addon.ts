import { createRequire } from 'node:module';

/**
 * The verbs of the native addon (libs/native/addon says what each one guards).
 *
 * Each returns its result, or -errno; `check` turns the latter into a SystemError. Addresses, offsets and lengths are
 * in bytes. Descriptors that a verb returns belong to the caller, who closes them with `fs.closeSync`.
 */
export interface Native {
  ringSetup(entries: number, cqEntries: number, flags: number, params: Uint32Array): number;
  /**
   * Gives the kernel what was prepared, and waits for `minComplete` completions: without bound when `timeoutMicros` is 0,
   * else -ETIME in the end. `state` is the address of an ENTER_STATE, which has the other arguments and what came out.
   */
  ringEnter(state: number, minComplete: number, timeoutMicros: number): number;
  ringRegister(fd: number, opcode: number, address: number, count: number): number;
  /** Shared mapping of `fd`, or anonymous memory when `fd` is -1. */
  mapShared(fd: number, offsetBytes: number, lengthBytes: number): number;
  /**
   * Inaccessible span, aligned to 4 GiB, to map files into with `mapFixed`. -EDQUOT when all threads together have
   * reserved as much as they may: 64 TiB, 32 of them in spans of more than 64 GiB.
   */
  reserve(lengthBytes: number): number;
  /** Ends a whole span of `reserve`. */
  unreserve(address: number, lengthBytes: number): number;
  mapFixed(address: number, lengthBytes: number, fd: number, offsetBytes: number): number;
  unmap(address: number, lengthBytes: number): number;
  /** Array buffer over memory at `address`; detach it before that memory is unmapped. 64 MiB or more cost a collection. */
  view(address: number, lengthBytes: number): ArrayBuffer;
  /** Ends a view. */
  detach(buffer: ArrayBuffer): number;
  addressOf(array: NodeJS.TypedArray): number;
  peek(address: number, into: Uint8Array, offset: number, length: number): number;
  poke(address: number, from: Uint8Array, offset: number, length: number): number;
  /** Survives SIGBUS in that span (zero pages replace what vanished); returns the slot that counts the faults. */
  guardAdd(address: number, lengthBytes: number, pageBytes: number): number;
  guardRemove(slot: number): number;
  /** int32 counters: [0] faults of all spans, [slot + 1] faults of one. */
  guardFaults(): ArrayBuffer;
  eventfd(flags: number): number;
  /** Adds one to an eventfd of ours; -EAGAIN when it is full. */
  signal(fd: number): number;
  /**
   * Adds one to an eventfd of another process, which may fill it and make it block whenever it likes: then this thread
   * is held for a quarter of a second at most, and the answer is -EINTR. System calls of a thread that has just called
   * this may be interrupted by SIGURG.
   */
  signalForeign(fd: number): number;
  consume(fd: number): number;
  /** Blocks the calling thread: 1 when readable, 0 when the time ran out. */
  waitReadable(fd: number, timeoutMs: number): number;
  setNonblocking(fd: number, on: number): number;
  memfd(name: string, sizeBytes: number): number;
  unixListen(path: string, backlog: number, mode: number): number;
  unixConnect(path: string): number;
  /** Does somebody listen there? 1, or 0 when that is certain not to be so; never waits. */
  unixProbe(path: string): number;
  accept(fd: number): number;
  socketPair(out: Int32Array): number;
  /** Bytes received, 0 at the end of the stream; `fds[0]` descriptors came and follow it. */
  receive(fd: number, into: Uint8Array, offset: number, length: number, fds: Int32Array): number;
  /** Bytes sent; -EAGAIN when there is no room, also on a socket that blocks. */
  send(
    fd: number,
    from: Uint8Array,
    offset: number,
    length: number,
    fds: Int32Array,
    fdCount: number,
  ): number;
  lockExclusive(fd: number): number;
  seekData(fd: number, offsetBytes: number): number;
  seekHole(fd: number, offsetBytes: number): number;
  allocate(fd: number, mode: number, offsetBytes: number, lengthBytes: number): number;
  cloneRange(
    toFd: number,
    toOffsetBytes: number,
    fromFd: number,
    fromOffsetBytes: number,
    lengthBytes: number,
  ): number;
  /** Bytes copied; perhaps fewer than asked for. */
  copyRange(
    toFd: number,
    toOffsetBytes: number,
    fromFd: number,
    fromOffsetBytes: number,
    lengthBytes: number,
  ): number;
  /** Fills `out` with the memory and offset alignment that O_DIRECT needs, in bytes; 0 where unknown. */
  directAlignment(fd: number, out: Uint32Array): number;
  /** Monotonic microseconds wrapped to int32: subtract with `| 0`. */
  clockMicros(): number;
  /** The same clock in nanoseconds, wrapped to int32: for times below two seconds. */
  clockNanos(): number;
}

const load = (): Native => {
  try {
    return createRequire(import.meta.url)('../build/cairn.node') as Native;
  } catch (cause) {
    throw new Error('the native addon is not built for this Node.js: run `npm run build`', { cause });
  }
};

/** The addon, loaded once a thread. */
export const native: Native = load();
