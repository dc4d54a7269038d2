import { native } from '@cairn/native';
import { inflightBytes } from '@cairn/virtio';
import { SharedArea } from './memory-table.js';
import type { InflightMessage } from './messages.js';
import type { AreaSlice, RingStart } from './vhost-user-backend.js';
import { VhostUserError } from './vhost-user-error.js';
import type { Vring } from './vring.js';

const MAX_INFLIGHT_BYTES = 64 * 1024 * 1024;
const MAX_QUEUE_SIZE = 32768; // virtio 1.2 §2.7 and §2.8

/** A record of requests in flight, with room for so many entries a ring. */
interface Records {
  area: SharedArea;
  entries: number;
}

/** The memory beside the guest's that a front-end shares with us: the dirty log and the record of requests in flight. */
export class SharedAreas {
  private log: SharedArea | undefined;
  private inflight: Records | undefined;

  constructor(private readonly queueCount: number) {}

  /** Has the front-end taken away memory that it shared? */
  get faulted(): boolean {
    return this.log?.faulted === true || this.inflight?.area.faulted === true;
  }

  get logSlice(): AreaSlice | undefined {
    return this.log && { address: this.log.address, sizeBytes: this.log.sizeBytes };
  }

  /** Puts another dirty log in force; no ring may be running. */
  useLog(log: SharedArea): void {
    this.log?.unmap();
    this.log = log;
  }

  /** Bytes of an area of so many rings. Throws VhostUserError when no ring can have such a record. */
  inflightBytes(numQueues: number, queueSize: number, options: { packed: boolean }): number {
    const bytes = inflightBytes(queueSize, options) * numQueues;
    const valid =
      numQueues >= 1 && numQueues <= this.queueCount && queueSize >= 1 && queueSize <= MAX_QUEUE_SIZE;
    if (!valid || bytes > MAX_INFLIGHT_BYTES) {
      throw new VhostUserError('memory-region-invalid', { numQueues, queueSize });
    }
    return bytes;
  }

  /** Maps the record that the front-end keeps; owns `fd` from now on, also when it throws. No ring may be running. */
  useInflight(message: InflightMessage, fd: number, options: { packed: boolean }): void {
    const { sizeBytes, offsetBytes, numQueues, queueSize } = message;
    const area = SharedArea.map(fd, offsetBytes, sizeBytes);
    try {
      const needed = this.inflightBytes(numQueues, queueSize, options);
      if (sizeBytes < needed) throw new VhostUserError('memory-region-invalid', { sizeBytes, needed });
    } catch (error) {
      area.unmap();
      throw error;
    }
    this.inflight?.area.unmap();
    this.inflight = { area, entries: queueSize };
  }

  /** Where a ring's requests in flight are recorded; undefined when nobody keeps a record of them. */
  inflightOf(vring: Vring, options: { packed: boolean }): RingStart['inflight'] {
    return sliceOf(this.inflight, vring, options);
  }

  /**
   * A ring has stopped with nothing in flight, and its front-end knows where: it may go on anywhere, also from its
   * beginning, as after a reset. A packed ring's record would lead back to where it was.
   */
  settleRing(vring: Vring, options: { packed: boolean }): void {
    clear(sliceOf(this.inflight, vring, options));
  }

  close(): void {
    this.log?.unmap();
    this.log = undefined;
    this.inflight?.area.unmap();
    this.inflight = undefined;
  }
}

const sliceOf = (
  records: Records | undefined,
  vring: Vring,
  options: { packed: boolean },
): RingStart['inflight'] => {
  if (!records || vring.size > records.entries) return undefined;
  const { area, entries } = records;
  const sizeBytes = inflightBytes(entries, options);
  if ((vring.index + 1) * sizeBytes > area.sizeBytes) return undefined;
  return { address: area.address + vring.index * sizeBytes, sizeBytes, entries };
};

/** From its beginning, where the version is: a record that is cleared in part is a new one already. */
const clear = (slice: AreaSlice | undefined): void => {
  if (slice) native.poke(slice.address, new Uint8Array(slice.sizeBytes), 0, slice.sizeBytes);
};
