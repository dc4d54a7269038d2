import { setImmediate, setTimeout } from 'node:timers/promises';

/** How many times as long as it worked it rests at most: 1/16 of the time is left to it, whatever guests do. */
const MAX_RESTS = 15;
/** No rest is noticed sooner than this by whoever waits for the end. */
const NAP_MS = 20;
/** A timer is not finer than this; shorter rests are taken together. */
const SHORTEST_MS = 1;

export interface PacerOptions {
  /** Bytes that may be moved a second; undefined: as fast as it goes. */
  bytesPerSecond?: number | undefined;
  /** Requests of guests that are in flight now; undefined: there are no guests. */
  requestsInFlight?: (() => number) | undefined;
  /** Must it end now? Then nothing rests any more. */
  isOver: () => boolean;
}

/**
 * Background work in small pieces, that makes room for guests: after each piece it rests as many times as long as the
 * piece took as there are requests in flight, at most MAX_RESTS times. With nothing in flight it does not rest; with a
 * deep queue, or with requests that take long because of it, it works a sixteenth of the time, and never less.
 */
export class Pacer {
  private owedMs = 0;

  constructor(private readonly options: PacerOptions) {}

  /** Runs one piece, which tells how many bytes it moved, and rests for it. Rejects as the piece does. */
  async piece(work: () => Promise<number>): Promise<void> {
    const { bytesPerSecond, requestsInFlight } = this.options;
    const began = performance.now();
    const bytes = await work();
    const tookMs = performance.now() - began;
    const forGuests = tookMs * Math.min(Math.max(requestsInFlight?.() ?? 0, 0), MAX_RESTS);
    const forRate = bytesPerSecond === undefined ? 0 : (bytes / bytesPerSecond) * 1000 - tookMs;
    this.owedMs += Math.max(forGuests, forRate);
    await this.rest();
  }

  private async rest(): Promise<void> {
    // Others of this thread have their turn in any case.
    if (this.owedMs < SHORTEST_MS) return setImmediate();
    while (this.owedMs >= SHORTEST_MS && !this.options.isOver()) {
      const began = performance.now();
      await setTimeout(Math.min(this.owedMs, NAP_MS));
      this.owedMs -= performance.now() - began;
    }
    return undefined;
  }
}
