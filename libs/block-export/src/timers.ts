const FAR = 0x7fffffff;

/**
 * Callbacks that wait for a time of the loop's clock: microseconds, wrapped to int32, so at most 35 minutes ahead.
 *
 * A callback is its own name: set again, it waits for the new time instead. Setting one that was made beforehand
 * allocates nothing, so that a ring can be put off on the hot path.
 */
export class Timers {
  private readonly due = new Map<() => void, number>();
  private readonly ready: (() => void)[] = [];
  /** No callback is due before this. */
  private nextAt = 0;

  /** Callbacks that wait. */
  get size(): number {
    return this.due.size;
  }

  /** Has `callback` called once, at `at` or as soon after it as `run` is called. */
  set(callback: () => void, at: number): void {
    if (this.due.size === 0 || ((at - this.nextAt) | 0) < 0) this.nextAt = at;
    this.due.set(callback, at);
  }

  /** Forgets a callback; one that does not wait is left alone. */
  delete(callback: () => void): void {
    this.due.delete(callback);
  }

  /** Microseconds until something may be due, at least 1; only while one waits. */
  microsLeft(now: number): number {
    return Math.max(1, (this.nextAt - now) | 0);
  }

  /** Calls what is due; a callback may set and delete any, and is not called twice in one run. */
  run(now: number): void {
    if (((this.nextAt - now) | 0) > 0) return;
    const { due, ready } = this;
    let next = (now + FAR) | 0;
    for (const [callback, at] of due) {
      if (((at - now) | 0) <= 0) ready.push(callback);
      else if (((at - next) | 0) < 0) next = at;
    }
    this.nextAt = next;
    for (let index = 0; index < ready.length; index += 1) {
      const callback = ready[index]!;
      const at = due.get(callback);
      // One that was called before it may have deleted it, or put it off.
      if (at === undefined || ((at - now) | 0) > 0) continue;
      due.delete(callback);
      callback();
    }
    while (ready.length > 0) ready.pop();
  }
}
