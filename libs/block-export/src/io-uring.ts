import { closeSync } from 'node:fs';
import { check, ENTER_STATE, IO_URING, native } from '@cairn/native';

const ETIME = 62;
const EINTR = 4;
const EBUSY = 16;
const EINVAL = 22;
const EAGAIN = 11;
const U32 = 2 ** 32;
const SQE_WORDS = IO_URING.sqeBytes / 4;
const CQE_WORDS = IO_URING.cqeBytes / 4;

// Word offsets inside a submission queue entry (struct io_uring_sqe).
const SQE = { OPCODE_FLAGS: 0, FD: 1, OFFSET: 2, ADDRESS: 4, LENGTH: 6, OP_FLAGS: 7, USER_DATA: 8 } as const;

/** The kernel has completions that it shows only when asked: put off, or without room in the queue. */
const WANTED_FLAGS = IO_URING.sqFlag.CQ_OVERFLOW | IO_URING.sqFlag.TASKRUN;

/** Called for each completion: the two words of user_data, the result or -errno, the CQE's flags. */
export type CompletionHandler = (dataLow: number, dataHigh: number, result: number, flags: number) => void;

/**
 * One io_uring whose queues are filled and emptied from TypeScript.
 *
 * Belongs to the thread that made it. Completions are kept by the kernel when the queue overflows
 * (FEAT_NODROP), so none is lost.
 */
export class IoUring {
  readonly fd: number;
  private readonly sqes: Uint32Array;
  private readonly sqMask: number;
  private readonly sqFlagsWord: Uint32Array;
  private readonly sqEntries: number;
  private readonly cqes: Int32Array;
  private readonly cqTailWord: Uint32Array;
  private readonly cqMask: number;
  private readonly maps: { address: number; bytes: number; buffer: ArrayBuffer }[] = [];
  /** What `ringEnter` is told and tells. */
  private readonly state: Int32Array;
  private readonly stateAddress: number;
  /** Do completions appear at any time, not only while the kernel is entered? */
  private readonly interrupted: boolean;
  private tail = 0;
  private submitted = 0;
  private cqHead = 0;
  private cqTail = 0;

  constructor(entries: number) {
    const params = new Uint32Array(30);
    const { CQSIZE, SINGLE_ISSUER, CLAMP, DEFER_TASKRUN, TASKRUN_FLAG } = IO_URING.setup;
    const setUp = (flags: number): number =>
      native.ringSetup(entries, entries * 4, flags | CQSIZE | CLAMP, params);
    // What worker threads of the kernel completed is counted in the thread's own calls, many at once, and interrupts it
    // nowhere else. Linux 6.1; before, it is interrupted.
    let fd = setUp(SINGLE_ISSUER | DEFER_TASKRUN | TASKRUN_FLAG);
    this.interrupted = fd === -EINVAL;
    if (this.interrupted) fd = setUp(0);
    this.fd = check('io_uring_setup', fd);
    const features = params[5]!;
    const needed = IO_URING.feature.NODROP | IO_URING.feature.EXT_ARG | IO_URING.feature.SINGLE_MMAP;
    if ((features & needed) !== needed) {
      closeSync(this.fd);
      throw new Error(
        'this kernel is too old for Cairn: io_uring lacks NODROP or EXT_ARG (Linux 5.11 or later)',
      );
    }
    this.sqEntries = params[0]!;
    const cqEntries = params[1]!;
    // struct io_sqring_offsets starts at word 10, struct io_cqring_offsets at word 20.
    const sqArrayAt = params[16]!;
    const cqesAt = params[25]!;
    const ringBytes = Math.max(sqArrayAt + this.sqEntries * 4, cqesAt + cqEntries * IO_URING.cqeBytes);
    const ring = this.map(this.fd, IO_URING.mmapOffset.sq, ringBytes);
    const ringAddress = this.maps[0]!.address;
    this.sqes = new Uint32Array(
      this.map(this.fd, IO_URING.mmapOffset.sqes, this.sqEntries * IO_URING.sqeBytes),
    );
    const word = (offset: number): Uint32Array => new Uint32Array(ring, offset, 1);
    this.sqMask = word(params[12]!)[0]!;
    this.sqFlagsWord = word(params[14]!);
    this.cqTailWord = word(params[21]!);
    this.cqMask = word(params[22]!)[0]!;
    this.cqes = new Int32Array(ring, cqesAt, cqEntries * CQE_WORDS);
    const array = new Uint32Array(ring, sqArrayAt, this.sqEntries);
    for (let index = 0; index < this.sqEntries; index += 1) array[index] = index;
    this.state = new Int32Array(this.map(-1, 0, ENTER_STATE.words * Int32Array.BYTES_PER_ELEMENT));
    this.stateAddress = this.maps.at(-1)!.address;
    this.state[ENTER_STATE.fd] = this.fd;
    this.state[ENTER_STATE.wantedFlags] = WANTED_FLAGS;
    this.state[ENTER_STATE.atSqHead] = params[10]!;
    this.state[ENTER_STATE.atSqTail] = params[11]!;
    this.state[ENTER_STATE.atSqFlags] = params[14]!;
    this.state[ENTER_STATE.atCqHead] = params[20]!;
    this.state[ENTER_STATE.atCqTail] = params[21]!;
    this.state[ENTER_STATE.ring] = ringAddress % U32;
    this.state[ENTER_STATE.ring + 1] = ringAddress / U32;
  }

  /** Clock when the kernel was entered last, in microseconds, wrapped. */
  get enteredAt(): number {
    return this.state[ENTER_STATE.entered]!;
  }

  /** Clock when it was left last. */
  get leftAt(): number {
    return this.state[ENTER_STATE.left]!;
  }

  /** Entries prepared but not yet given to the kernel. */
  get pending(): number {
    return (this.tail - this.submitted) >>> 0;
  }

  /** Entries that `prepare` can still take before a submission. */
  get room(): number {
    return this.sqEntries - this.pending;
  }

  // The words after USER_DATA are zero from the beginning, and nobody writes them.
  /** Prepares one entry; `offset` and `address` are 64-bit, as two words. Submits first when the queue is full. */
  prepare(
    opcode: number,
    fd: number,
    offsetLow: number,
    offsetHigh: number,
    addressLow: number,
    addressHigh: number,
    length: number,
    opFlags: number,
    dataLow: number,
    dataHigh: number,
  ): void {
    for (let tries = 0; this.room === 0; tries += 1) {
      if (tries === 1000) throw new Error('io_uring takes no more entries');
      this.enter(0, 0);
    }
    const at = (this.tail & this.sqMask) * SQE_WORDS;
    const { sqes } = this;
    sqes[at + SQE.OPCODE_FLAGS] = opcode;
    sqes[at + SQE.FD] = fd;
    sqes[at + SQE.OFFSET] = offsetLow;
    sqes[at + SQE.OFFSET + 1] = offsetHigh;
    sqes[at + SQE.ADDRESS] = addressLow;
    sqes[at + SQE.ADDRESS + 1] = addressHigh;
    sqes[at + SQE.LENGTH] = length;
    sqes[at + SQE.OP_FLAGS] = opFlags;
    sqes[at + SQE.USER_DATA] = dataLow;
    sqes[at + SQE.USER_DATA + 1] = dataHigh;
    this.tail = (this.tail + 1) >>> 0;
  }

  /**
   * Gives all prepared entries to the kernel and waits until `minComplete` completions are there.
   *
   * `timeoutMicros` > 0 bounds the wait. What the kernel did not take (no memory now) stays pending for next time.
   */
  enter(minComplete: number, timeoutMicros: number): void {
    const { state } = this;
    // Not into memory that is somebody else's by now.
    if (state.length === 0) throw new Error('this io_uring is closed');
    state[ENTER_STATE.sqTail] = this.tail;
    state[ENTER_STATE.cqHead] = this.cqHead;
    const result = native.ringEnter(this.stateAddress, minComplete, timeoutMicros);
    if (result < 0 && result !== -ETIME && result !== -EINTR && result !== -EBUSY && result !== -EAGAIN) {
      check('io_uring_enter', result);
    }
    this.submitted = state[ENTER_STATE.sqHead]! >>> 0;
    this.cqTail = state[ENTER_STATE.cqTail]! >>> 0;
  }

  /** Completions that were there when the kernel was left; more where it interrupts us. */
  completionCount(): number {
    if (this.interrupted) this.cqTail = Atomics.load(this.cqTailWord, 0);
    return (this.cqTail - this.cqHead) >>> 0;
  }

  /** Is a completion there? Fetches what the kernel has put off. */
  hasCompletions(): boolean {
    if ((Atomics.load(this.sqFlagsWord, 0) & WANTED_FLAGS) !== 0) this.enter(0, 0);
    return this.completionCount() > 0;
  }

  /** Hands every completion that is there to `handler` and returns their number. */
  reap(handler: CompletionHandler): number {
    const count = this.completionCount();
    const { cqes } = this;
    for (let left = count; left > 0; left -= 1) {
      const at = (this.cqHead & this.cqMask) * CQE_WORDS;
      this.cqHead = (this.cqHead + 1) >>> 0;
      handler(cqes[at]! >>> 0, cqes[at + 1]! >>> 0, cqes[at + 2]!, cqes[at + 3]!);
    }
    return count;
  }

  close(): void {
    closeSync(this.fd);
    for (const { address, bytes, buffer } of this.maps) {
      native.detach(buffer);
      native.unmap(address, bytes);
    }
  }

  private map(fd: number, offsetBytes: number, bytes: number): ArrayBuffer {
    const address = check('mmap', native.mapShared(fd, offsetBytes, bytes));
    const buffer = native.view(address, bytes);
    this.maps.push({ address, bytes, buffer });
    return buffer;
  }
}
