/** Does the work for each item, so many at once; ends with the first failure once what had begun has ended. */
export async function inParallel<T>(
  items: AsyncIterable<T>,
  limit: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  for await (const item of items) {
    const one: Promise<void> = work(item)
      .catch((error: unknown) => void (failure ??= { error }))
      .finally(() => running.delete(one));
    running.add(one);
    if (running.size >= limit) await Promise.race(running);
    if (failure) break;
  }
  await Promise.all(running);
  if (failure) throw failure.error;
}

/** The results of work on each item, in order, so many begun ahead. */
export async function* aheadOf<T, R>(
  items: AsyncIterable<T>,
  limit: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const begun: Promise<R>[] = [];
  for await (const item of items) {
    const one = work(item);
    // It is looked at in its turn; until then, a failure is nobody's.
    one.catch(() => undefined);
    begun.push(one);
    if (begun.length >= limit) yield await begun.shift()!;
  }
  for (const one of begun) yield await one;
}
