/** A part of the guest's physical address space that is mapped, in bytes. */
export interface MemoryRun {
  gpa: number;
  sizeBytes: number;
}

/** Access to the mapping behind guest memory; whoever made the mapping provides it and ends the views. */
export interface MemoryMapping {
  /** Where guest physical address 0 would be in this process, also when that is below 0; a multiple of 4 GiB. */
  readonly baseAddress: number;
  /** Array buffer over `lengthBytes` of guest memory from `gpa`. */
  view(gpa: number, lengthBytes: number): ArrayBuffer;
}

/** 16 MiB: one view of 64 MiB or more costs a garbage collection of some milliseconds (see the addon's `view`). */
const WINDOW_BITS = 24;
const WINDOW_BYTES = 2 ** WINDOW_BITS;
const WINDOW_MASK = WINDOW_BYTES - 1;
const U32 = 2 ** 32;
const WINDOWS_PER_U32 = U32 / WINDOW_BYTES;

/** Typed arrays over one window (or less, at the end) of guest memory. */
interface Window {
  bytes: Uint8Array;
  words: Uint32Array;
}

/**
 * Guest memory as the device sees it: guest physical addresses (GPA), checked against what is really mapped.
 *
 * Addresses come as two 32-bit words, as they stand in descriptors. Because the mapping is linear and its base a
 * multiple of 4 GiB, the process address of (low, high) is (low, high + baseHigh). Everything but `contains` presumes
 * a range that `contains` accepted. Reads and writes go through windows that are made on first use.
 */
export class GuestMemory {
  readonly baseHigh: number;
  private readonly starts: Float64Array;
  private readonly ends: Float64Array;
  /** From `firstWindow` on, where guest memory begins. */
  private readonly windows: (Window | undefined)[];
  private readonly firstWindow: number;

  /** Runs may touch each other: a buffer may lie across such a seam, because the mapping is linear. */
  constructor(
    private readonly mapping: MemoryMapping,
    runs: readonly MemoryRun[],
  ) {
    const merged: { start: number; end: number }[] = [];
    for (const run of runs.toSorted((a, b) => a.gpa - b.gpa)) {
      const last = merged.at(-1);
      if (last && run.gpa === last.end) last.end = run.gpa + run.sizeBytes;
      else merged.push({ start: run.gpa, end: run.gpa + run.sizeBytes });
    }
    this.starts = Float64Array.from(merged, (run) => run.start);
    this.ends = Float64Array.from(merged, (run) => run.end);
    this.baseHigh = mapping.baseAddress / U32;
    this.firstWindow = Math.floor((merged[0]?.start ?? 0) / WINDOW_BYTES);
    // All places at once: an array that is filled far behind its end becomes a slow dictionary.
    this.windows = Array.from(
      { length: Math.ceil((merged.at(-1)?.end ?? 0) / WINDOW_BYTES) - this.firstWindow },
      () => undefined,
    );
  }

  /** Is the whole range mapped? The one check that makes a guest's address trusted. */
  contains(low: number, high: number, lengthBytes: number): boolean {
    const start = high * U32 + low;
    const end = start + lengthBytes;
    for (let run = 0; run < this.starts.length; run += 1) {
      if (start >= this.starts[run]! && end <= this.ends[run]!) return true;
    }
    return false;
  }

  /** The 32-bit words of the window that holds (low, high), when the range starts aligned and stays inside it. */
  wordsAt(low: number, high: number, lengthBytes: number): Uint32Array | undefined {
    const at = low & WINDOW_MASK;
    if ((low & 3) !== 0 || at + lengthBytes > WINDOW_BYTES) return undefined;
    return this.window(low, high).words;
  }

  /** Index into `wordsAt` of the word at `low`. */
  wordIndex(low: number): number {
    return (low & WINDOW_MASK) >>> 2;
  }

  writeByte(low: number, high: number, value: number): void {
    this.window(low, high).bytes[low & WINDOW_MASK] = value;
  }

  /** Copies guest bytes out; any alignment, across windows. The slow, always right way. */
  read(low: number, high: number, into: Uint8Array): void {
    this.eachPart(low, high, into.length, (part, at) => into.set(part, at));
  }

  /** Copies bytes into the guest; any alignment, across windows. */
  write(low: number, high: number, from: Uint8Array): void {
    this.eachPart(low, high, from.length, (part, at) => part.set(from.subarray(at, at + part.length)));
  }

  /** A view of its own over a range, for rings; the range must be mapped. */
  view(gpa: number, lengthBytes: number): ArrayBuffer {
    return this.mapping.view(gpa, lengthBytes);
  }

  /** Process address of a guest physical address. */
  addressOf(low: number, high: number): number {
    return this.mapping.baseAddress + high * U32 + low;
  }

  private eachPart(
    low: number,
    high: number,
    lengthBytes: number,
    visit: (part: Uint8Array, at: number) => void,
  ): void {
    let gpa = high * U32 + low;
    for (let done = 0; done < lengthBytes;) {
      const at = gpa % WINDOW_BYTES;
      const count = Math.min(lengthBytes - done, WINDOW_BYTES - at);
      const { bytes } = this.window(gpa % U32, Math.floor(gpa / U32));
      visit(bytes.subarray(at, at + count), done);
      done += count;
      gpa += count;
    }
  }

  private window(low: number, high: number): Window {
    const index = high * WINDOWS_PER_U32 + (low >>> WINDOW_BITS) - this.firstWindow;
    return this.windows[index] ?? this.makeWindow(index);
  }

  private makeWindow(index: number): Window {
    const start = (this.firstWindow + index) * WINDOW_BYTES;
    const end = this.ends[this.ends.length - 1] ?? 0;
    const buffer = this.mapping.view(start, Math.min(WINDOW_BYTES, end - start));
    const window = {
      bytes: new Uint8Array(buffer),
      words: new Uint32Array(buffer, 0, buffer.byteLength >>> 2),
    };
    this.windows[index] = window;
    return window;
  }
}
