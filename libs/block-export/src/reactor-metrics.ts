import { readFileSync } from 'node:fs';

/**
 * What a reactor thread counts of itself: how often it slept, what came of looking on instead, and how often the host
 * lacked something for a front-end that has come.
 */
export const REACTOR_COUNTERS = ['sleeps', 'pollsMet', 'pollsInVain', 'shortages'] as const;
export type ReactorCounterName = (typeof REACTOR_COUNTERS)[number];

/** Where each counter is. */
export const REACTOR_COUNTER = {
  sleeps: 0,
  pollsMet: 1,
  pollsInVain: 2,
  shortages: 3,
} as const satisfies Record<ReactorCounterName, number>;

/** Counters of one reactor thread, in memory that all of them share: that thread writes, any thread reads. */
export class ReactorMetrics {
  private readonly numbers: Float64Array;

  constructor(buffer: SharedArrayBuffer, reactor: number) {
    const { length } = REACTOR_COUNTERS;
    this.numbers = new Float64Array(buffer, reactor * length * Float64Array.BYTES_PER_ELEMENT, length);
  }

  static bufferFor(reactors: number): SharedArrayBuffer {
    return new SharedArrayBuffer(reactors * REACTOR_COUNTERS.length * Float64Array.BYTES_PER_ELEMENT);
  }

  /** Counts one; see REACTOR_COUNTER. */
  count(counter: number): void {
    this.numbers[counter]! += 1;
  }

  counts(): Record<ReactorCounterName, number> {
    const [sleeps, pollsMet, pollsInVain, shortages] = this.numbers;
    return { sleeps: sleeps!, pollsMet: pollsMet!, pollsInVain: pollsInVain!, shortages: shortages! };
  }
}

/** proc(5): times in /proc/PID/stat are in ticks of USER_HZ, which is 100 on every architecture that Node.js runs on. */
const TICKS_PER_SECOND = 100;

/** What a reactor thread has done since it was started. */
export interface ReactorStatus extends Record<ReactorCounterName, number> {
  reactor: number;
  /** CPU time, in steps of the kernel's clock (10 ms). */
  cpuSeconds: number;
  /** Virtqueues that run on it. */
  rings: number;
}

/** CPU time of a thread of this process, in seconds; 0 when it has ended. */
export const threadCpuSeconds = (threadId: number): number => {
  let stat: string;
  try {
    stat = readFileSync(`/proc/self/task/${threadId}/stat`, 'latin1');
  } catch {
    return 0;
  }
  // utime and stime are the 12th and 13th words after the command's closing parenthesis.
  const words = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(words[11]) + Number(words[12])) / TICKS_PER_SECOND;
};
