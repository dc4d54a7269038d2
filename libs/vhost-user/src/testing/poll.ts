import { setImmediate } from 'node:timers/promises';
import { native } from '@cairn/native';

/** Nothing happened within the time a test allows. */
export class TimedOut extends Error {
  override readonly name = 'TimedOut';
}

/**
 * Calls `look` until it answers; between looks it sleeps on `fd` for at most a millisecond and lets others run.
 * Throws TimedOut, naming what was waited for.
 */
export const pollUntil = async <T>(
  what: string,
  look: () => T | undefined,
  options: { timeoutMs: number; fd?: () => number | undefined },
): Promise<T> => {
  const deadline = performance.now() + options.timeoutMs;
  for (;;) {
    const answer = look();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline) throw new TimedOut(`${what}: nothing within ${options.timeoutMs} ms`);
    const fd = options.fd?.();
    if (fd !== undefined) native.waitReadable(fd, 1);
    await setImmediate();
  }
};
