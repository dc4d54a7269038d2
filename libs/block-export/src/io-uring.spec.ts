import { closeSync } from 'node:fs';
import { check, EFD_NONBLOCK, IO_URING, native } from '@cairn/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { IoUring } from './io-uring.js';

const EINVAL = 22;
const POLLIN = 1;

/** A kernel before Linux 6.1: it cannot put completions off, and before 6.0 it knows no single issuer. */
const onOldKernel = (): IoUring => {
  const ringSetup = native.ringSetup.bind(native);
  const known = IO_URING.setup.CQSIZE | IO_URING.setup.CLAMP;
  const old: typeof ringSetup = (entries, cqEntries, flags, params) =>
    (flags & ~known) === 0 ? ringSetup(entries, cqEntries, flags, params) : -EINVAL;
  Object.assign(native, { ringSetup: old });
  try {
    return new IoUring(8);
  } finally {
    Object.assign(native, { ringSetup });
  }
};

describe.each([
  ['this kernel', () => new IoUring(8)],
  ['a kernel before Linux 6.1', onOldKernel],
])('an io_uring of %s', (_, make) => {
  let uring: IoUring;
  let eventFd: number;
  beforeEach(() => {
    uring = make();
    eventFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
  });
  afterEach(() => {
    uring.close();
    closeSync(eventFd);
  });

  const reaped = (): [number, number][] => {
    const answers: [number, number][] = [];
    uring.reap((low, _high, result) => answers.push([low, result]));
    return answers;
  };
  const prepareNop = (data: number): void => uring.prepare(IO_URING.op.NOP, -1, 0, 0, 0, 0, 0, 0, data, 0);

  it('has what completes while it is submitted, in order, once', () => {
    prepareNop(1);
    prepareNop(2);
    expect([uring.pending, uring.room]).toEqual([2, 6]);
    uring.enter(0, 0);
    expect([uring.pending, uring.completionCount()]).toEqual([0, 2]);
    expect(reaped()).toEqual([
      [1, 0],
      [2, 0],
    ]);
    expect(reaped()).toEqual([]);
  });

  it('finds without waiting what completes after it was submitted', () => {
    uring.prepare(IO_URING.op.POLL_ADD, eventFd, 0, 0, 0, 0, 0, POLLIN, 7, 0);
    uring.enter(0, 0);
    expect(uring.hasCompletions()).toBe(false);
    native.signal(eventFd);
    expect(uring.hasCompletions()).toBe(true);
    expect(reaped()).toEqual([[7, POLLIN]]);
  });

  it('submits by itself when its queue is full, and loses no completion for which there is no room', () => {
    for (let data = 0; data < 100; data += 1) prepareNop(data);
    uring.enter(0, 0);
    const answers: number[] = [];
    while (uring.hasCompletions()) answers.push(...reaped().map(([data]) => data));
    expect(answers).toEqual(Array.from({ length: 100 }, (__, data) => data));
  });

  it('waits no longer than it is told, and tells when it entered and left', () => {
    uring.enter(1, 20_000);
    expect((uring.leftAt - uring.enteredAt) | 0).toBeGreaterThanOrEqual(20_000);
    expect(uring.completionCount()).toBe(0);
  });

  it('enters no kernel after its end', () => {
    const other = make();
    other.close();
    expect(() => other.enter(0, 0)).toThrow('closed');
  });
});

it('shows on an old kernel what completed although nobody entered since', () => {
  const uring = onOldKernel();
  const eventFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
  uring.prepare(IO_URING.op.POLL_ADD, eventFd, 0, 0, 0, 0, 0, POLLIN, 7, 0);
  uring.enter(0, 0);
  native.signal(eventFd);
  expect(uring.reap(() => undefined)).toBe(1);
  uring.close();
  closeSync(eventFd);
});
