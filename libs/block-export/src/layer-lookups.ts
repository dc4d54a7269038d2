import { SystemError } from '@cairn/native';
import type { ExtentMap } from '@cairn/storage';

/** Extents that are looked at in one round of the loop, at most: some hundred microseconds. */
const EXTENTS_A_ROUND = 128;

/** Requests that wait until the map knows a place, looked up in rounds so that no other volume waits for long. */
export class LayerLookups {
  private queue: { offsetBytes: number; next: (errno: number) => void }[] = [];
  private scheduled = false;

  /** `soon` runs something in the next round of the loop. */
  constructor(
    private readonly map: ExtentMap,
    private readonly soon: (work: () => void) => void,
  ) {}

  isKnown(offsetBytes: number, lengthBytes: number): boolean {
    return this.map.firstUnknown(offsetBytes, lengthBytes) === undefined;
  }

  /** Calls `next`, perhaps at once, when the place is known, or with the errno of the file system that cannot tell. */
  whenKnown(offsetBytes: number, next: (errno: number) => void): void {
    if (this.isKnown(offsetBytes, 1)) return next(0);
    this.queue.push({ offsetBytes, next });
    return this.schedule();
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    this.soon(() => this.round());
  }

  private round(): void {
    this.scheduled = false;
    const [first] = this.queue;
    if (!first) return;
    let errno = 0;
    try {
      if (!this.map.lookUpStep(first.offsetBytes, EXTENTS_A_ROUND)) return this.schedule();
    } catch (error) {
      errno = errnoOf(error);
    }
    this.queue.shift();
    first.next(errno);
    // Others waited for the same place, most often.
    const known = this.queue.filter(({ offsetBytes }) => this.isKnown(offsetBytes, 1));
    this.queue = this.queue.filter((one) => !known.includes(one));
    for (const { next } of known) next(0);
    if (this.queue.length > 0) this.schedule();
  }
}

/** The errno of a call of the addon or of Node.js that failed. Anything else is thrown again. */
export const errnoOf = (error: unknown): number => {
  if (error instanceof SystemError) return error.errno;
  const { errno } = error as NodeJS.ErrnoException;
  if (errno === undefined) throw error;
  return Math.abs(errno);
};
