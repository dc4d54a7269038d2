/** A process that ran this long was healthy, and its next end is the first of a new row. */
const healthyMs = 60_000;
const firstDelayMs = 250;
const longestDelayMs = 30_000;

/** How long to wait before a process is started again, and the how-manieth end in a row this was. */
export function backoffMs(earlier: number, ranMs: number): { attempt: number; delay: number } {
  const attempt = ranMs >= healthyMs ? 1 : earlier + 1;
  return { attempt, delay: Math.min(firstDelayMs * 2 ** (attempt - 1), longestDelayMs) };
}
