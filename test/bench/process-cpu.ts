import { readFileSync } from 'node:fs';

/** Ticks of /proc/<pid>/stat: USER_HZ, 100 on every Linux that Node.js runs on. */
const TICK_MICROS = 10_000;

/**
 * CPU time of a process in microseconds, in steps of 10 ms: all its threads, ended ones too. The worker threads that
 * io_uring makes are threads of the process that owns the ring, so they are in it.
 */
export const cpuMicros = (pid: number): number => {
  // proc(5): utime and stime are the 12th and 13th words after the command's closing parenthesis.
  const words = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(words[11]) + Number(words[12])) * TICK_MICROS;
};
