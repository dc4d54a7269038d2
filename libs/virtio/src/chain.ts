/**
 * A descriptor chain taken apart, whatever ring it came from: `count` buffers, the first `readable` of them
 * device-readable, the rest device-writable. Buffer i starts at the guest physical address (low[i], high[i]) and is
 * length[i] bytes long, never 0; it was checked to be mapped guest memory.
 */
export interface Chain {
  readonly count: number;
  readonly readable: number;
  readonly readableBytes: number;
  readonly writableBytes: number;
  readonly low: Uint32Array;
  readonly high: Uint32Array;
  readonly length: Uint32Array;
}
