/** Lets changes of overlapping ranges happen one after the other, in the order of the calls, and counts them. */
export class RangeOrder {
  private readonly active = new Set<{ start: number; end: number; done: Promise<unknown> }>();

  run<T>(start: number, end: number, work: () => Promise<T>): Promise<T> {
    const before = [...this.active].filter((other) => other.start < end && start < other.end);
    const done = Promise.allSettled(before.map((other) => other.done)).then(work);
    const entry = { start, end, done };
    this.active.add(entry);
    const forget = (): boolean => this.active.delete(entry);
    done.then(forget, forget);
    return done;
  }

  /** Resolves when all that is under way now has ended. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.active].map(({ done }) => done));
  }
}
