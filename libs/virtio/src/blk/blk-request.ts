import type { Chain } from '../chain.js';
import type { GuestMemory } from '../guest-memory.js';
import { VirtqueueError } from '../virtqueue-error.js';

/** Unit of virtio-blk addresses, whatever the block size (virtio 1.2 §5.2.6). */
export const SECTOR_BYTES = 512;

/** Request types (virtio 1.2 §5.2.6). */
export const BLK_TYPE = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  DISCARD: 11,
  WRITE_ZEROES: 13,
  SECURE_ERASE: 14,
} as const;

/** Status bytes (virtio 1.2 §5.2.6). */
export const BLK_STATUS = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

const HEADER_BYTES = 16;
const U32 = 2 ** 32;

/**
 * A block request taken apart: header, data segments and the place of the status byte, however the driver framed
 * them (virtio 1.2 §2.7.4: a device must not presume any layout). One object a queue, filled anew by each `parse`.
 */
export class BlkRequest {
  type = 0;
  /** First sector; past 2^53 it is Infinity, which no capacity holds. */
  sector = 0;
  dataBytes = 0;
  statusLow = 0;
  statusHigh = 0;
  private first = 0;
  private last = -1;
  private skip = 0;
  private trim = 0;
  private readonly header = new Uint8Array(HEADER_BYTES);
  private readonly headerWords = new Uint32Array(this.header.buffer);

  constructor(private readonly memory: GuestMemory) {}

  /** Throws VirtqueueError when there is no whole header or no status byte: then nothing could be answered. */
  parse(chain: Chain): void {
    if (chain.readableBytes < HEADER_BYTES)
      throw new VirtqueueError('header-too-short', { bytes: chain.readableBytes });
    if (chain.writableBytes < 1) throw new VirtqueueError('status-missing');
    this.readHeader(chain);
    this.findStatus(chain);
    if (this.type === BLK_TYPE.OUT || this.type >= BLK_TYPE.DISCARD) this.framePayload(chain);
    else this.frameAnswer(chain);
  }

  /** How many data segments `writeSegments` would write at most. */
  get segmentCount(): number {
    return this.last - this.first + 1;
  }

  /** Address of the only data segment, when `segmentCount` is 1: low and high word, the process's own. */
  soleLow(chain: Chain): number {
    return (chain.low[this.first]! + this.skip) >>> 0;
  }

  soleHigh(chain: Chain): number {
    const carry = chain.low[this.first]! + this.skip >= U32 ? 1 : 0;
    return chain.high[this.first]! + this.memory.baseHigh + carry;
  }

  /**
   * Writes the data segments as struct iovec (64-bit address, 64-bit length, as 32-bit words) from `out[at]` on and
   * returns their number. The addresses are the process's own, ready for the kernel.
   */
  writeSegments(chain: Chain, out: Uint32Array, at: number): number {
    const baseHigh = this.memory.baseHigh;
    let to = at;
    for (let index = this.first; index <= this.last; index += 1) {
      let low = chain.low[index]!;
      let high = chain.high[index]!;
      let bytes = chain.length[index]!;
      if (index === this.first && this.skip > 0) {
        bytes -= this.skip;
        low += this.skip;
        if (low >= U32) {
          low -= U32;
          high += 1;
        }
      }
      if (index === this.last) bytes -= this.trim;
      if (bytes === 0) continue;
      out[to] = low;
      out[to + 1] = high + baseHigh;
      out[to + 2] = bytes;
      out[to + 3] = 0;
      to += 4;
    }
    return (to - at) >>> 2;
  }

  private readHeader(chain: Chain): void {
    const words =
      chain.length[0]! >= HEADER_BYTES
        ? this.memory.wordsAt(chain.low[0]!, chain.high[0]!, HEADER_BYTES)
        : undefined;
    let from: Uint32Array = this.headerWords;
    let at = 0;
    if (words) {
      from = words;
      at = this.memory.wordIndex(chain.low[0]!);
    } else {
      this.gatherHeader(chain);
    }
    this.type = from[at]!;
    const sectorHigh = from[at + 3]!;
    this.sector = sectorHigh < 2 ** 21 ? sectorHigh * U32 + from[at + 2]! : Infinity;
  }

  private gatherHeader(chain: Chain): void {
    for (let index = 0, done = 0; done < HEADER_BYTES; index += 1) {
      const count = Math.min(chain.length[index]!, HEADER_BYTES - done);
      this.memory.read(chain.low[index]!, chain.high[index]!, this.header.subarray(done, done + count));
      done += count;
    }
  }

  private findStatus(chain: Chain): void {
    const end = chain.count - 1;
    const low = chain.low[end]! + chain.length[end]! - 1;
    this.statusLow = low >= U32 ? low - U32 : low;
    this.statusHigh = low >= U32 ? chain.high[end]! + 1 : chain.high[end]!;
  }

  /** Data = what is device-readable after the header. */
  private framePayload(chain: Chain): void {
    let index = 0;
    let skip = HEADER_BYTES;
    while (index < chain.readable && skip >= chain.length[index]!) {
      skip -= chain.length[index]!;
      index += 1;
    }
    this.first = index;
    this.last = chain.readable - 1;
    this.skip = skip;
    this.trim = 0;
    this.dataBytes = chain.readableBytes - HEADER_BYTES;
  }

  /** Data = what is device-writable before the status byte, which mostly has a descriptor of its own. */
  private frameAnswer(chain: Chain): void {
    const end = chain.count - 1;
    const alone = chain.length[end] === 1 ? 1 : 0;
    this.first = chain.readable;
    this.last = end - alone;
    this.skip = 0;
    this.trim = 1 - alone;
    this.dataBytes = chain.writableBytes - 1;
  }
}
