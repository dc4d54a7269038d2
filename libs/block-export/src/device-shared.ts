import { errnoName } from '@cairn/native';
import { SECTOR_BYTES } from '@cairn/virtio';

const CAPACITY = 0; // float64
const FAILED_ERRNO = 2; // int32, from here on
const WRITE_THROUGH = 3;

/**
 * What every thread that serves a volume must agree on at once: its size, whether writes must be durable when they
 * complete, and whether a flush has failed. Lives in shared memory; the home reactor writes the first two.
 */
export class DeviceShared {
  private readonly words: Int32Array;
  private readonly numbers: Float64Array;

  /** Over the first bytes of `buffer`. */
  constructor(buffer: SharedArrayBuffer) {
    this.words = new Int32Array(buffer, 0, 4);
    this.numbers = new Float64Array(buffer, 0, 1);
  }

  get capacitySectors(): number {
    return this.numbers[CAPACITY]!;
  }

  get sizeBytes(): number {
    return this.capacitySectors * SECTOR_BYTES;
  }

  set sizeBytes(value: number) {
    this.numbers[CAPACITY] = value / SECTOR_BYTES;
  }

  /** Must each write be durable when it completes? */
  get writeThrough(): boolean {
    return Atomics.load(this.words, WRITE_THROUGH) === 1;
  }

  set writeThrough(on: boolean) {
    Atomics.store(this.words, WRITE_THROUGH, on ? 1 : 0);
  }

  /** Did a flush fail? Then it is unknown what is on the disk, and nothing more is written. */
  get hasFailed(): boolean {
    return this.failedErrno !== 0;
  }

  /** What the first failed flush failed with; 0 = none has. */
  get failedErrno(): number {
    return Atomics.load(this.words, FAILED_ERRNO);
  }

  /** Notes a failed flush; the first one counts. */
  fail(errno: number): void {
    Atomics.compareExchange(this.words, FAILED_ERRNO, 0, errno);
  }

  /** Why nothing is written any more. */
  get failure(): string | undefined {
    const errno = this.failedErrno;
    if (errno === 0) return undefined;
    return `fdatasync failed with ${errnoName(errno)}; what was written since the last flush may be lost`;
  }
}
