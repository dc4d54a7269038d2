/** Runs verbs that share a key one after the other, in the order in which they came. */
export class Turns {
  private readonly tails = new Map<string, Promise<unknown>>();

  /** Runs when every earlier verb on one of the keys has ended, however it ended. */
  run<T>(keys: readonly string[], work: () => Promise<T>): Promise<T> {
    const before = keys.map((key) => this.tails.get(key) ?? Promise.resolve());
    const result = Promise.allSettled(before).then(work);
    const forget = (): void => {
      for (const key of keys) if (this.tails.get(key) === result) this.tails.delete(key);
    };
    for (const key of keys) this.tails.set(key, result);
    result.then(forget, forget);
    return result;
  }

  /** Resolves when all that run now have ended. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.tails.values());
  }
}
