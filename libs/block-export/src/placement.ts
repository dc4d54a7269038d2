/** How many rings each reactor serves, in memory that all of them share. */
export class Placement {
  private readonly loads: Int32Array;

  constructor(
    buffer: SharedArrayBuffer,
    private readonly self: number,
  ) {
    this.loads = new Int32Array(buffer);
  }

  static bufferFor(reactors: number): SharedArrayBuffer {
    return new SharedArrayBuffer(reactors * Int32Array.BYTES_PER_ELEMENT);
  }

  /** The reactor with the fewest rings, counted as having one more; the nearest after this one among equals. */
  choose(ringIndex: number, options: { pinned: boolean }): number {
    const count = this.loads.length;
    let best = this.self;
    if (!options.pinned) {
      for (let step = 0; step < count; step += 1) {
        const reactor = (this.self + ringIndex + step) % count;
        if (step === 0 || Atomics.load(this.loads, reactor) < Atomics.load(this.loads, best)) best = reactor;
      }
    }
    Atomics.add(this.loads, best, 1);
    return best;
  }

  ringsOf(reactor: number): number {
    return Atomics.load(this.loads, reactor);
  }

  leave(reactor: number): void {
    Atomics.sub(this.loads, reactor, 1);
  }
}
