import { closeSync } from 'node:fs';
import { native } from '@cairn/native';
import { inflightBytes } from '@cairn/virtio';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
import { SharedArea } from './memory-table.js';
import type { InflightMessage } from './messages.js';
import type { AreaSlice, RingStart } from './vhost-user-backend.js';
import { VhostUserError } from './vhost-user-error.js';
import type { Vring } from './vring.js';

const MAX_INFLIGHT_BYTES = 64 * 1024 * 1024;
const MAX_QUEUE_SIZE = 32768; // virtio 1.2 §2.7 and §2.8

/**
 * The last bytes of an area that we have made, after what the protocol says of it: a mark and the driver's state. The
 * front-end gives the area to the next process as it is, and so tells a driver that goes on from a new one.
 */
const KEPT_BYTES = 64;
const KEPT_MARK = 0x4e524941;

/** A record of requests in flight, with room for so many entries a ring. */
interface Records {
  area: SharedArea;
  entries: number;
  /** Where the driver's state is kept; undefined in an area that another back-end has made. */
  keptAddress: number | undefined;
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

  /** Bytes of an area to make for so many rings. Throws VhostUserError when no ring can have such a record. */
  newInflightBytes(numQueues: number, queueSize: number, options: { packed: boolean }): number {
    return this.inflightBytes(numQueues, queueSize, options) + KEPT_BYTES;
  }

  private inflightBytes(numQueues: number, queueSize: number, options: { packed: boolean }): number {
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
    let needed: number;
    try {
      needed = this.inflightBytes(numQueues, queueSize, options);
      if (sizeBytes < needed) throw new VhostUserError('memory-region-invalid', { sizeBytes, needed });
    } catch (error) {
      area.unmap();
      throw error;
    }
    this.inflight?.area.unmap();
    const keptAddress = sizeBytes >= needed + KEPT_BYTES ? keptAddressIn(area) : undefined;
    this.inflight = { area, entries: queueSize, keptAddress };
  }

  /** What the driver had set when this area was used last; undefined when it is new, or there is none. */
  get driverState(): number | undefined {
    const address = this.inflight?.keptAddress;
    if (address === undefined) return undefined;
    const words = new Uint32Array(2);
    native.peek(address, new Uint8Array(words.buffer), 0, words.byteLength);
    return words[0] === KEPT_MARK ? words[1] : undefined;
  }

  /** Keeps what the driver has set for the process that uses this area next. */
  keepDriverState(state: number): void {
    const address = this.inflight?.keptAddress;
    if (address === undefined) return;
    const words = Uint32Array.of(KEPT_MARK, state);
    native.poke(address, new Uint8Array(words.buffer), 0, words.byteLength);
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

  /** What a successor needs to have the same areas. */
  state(list: FdList): Record<string, HandedValue> {
    const of = ({ offsetBytes, sizeBytes, fd }: SharedArea): Record<string, HandedValue> => ({
      offsetBytes,
      sizeBytes,
      fd: list.add(fd),
    });
    return {
      ...(this.log && { log: of(this.log) }),
      ...(this.inflight && {
        inflight: {
          ...of(this.inflight.area),
          entries: this.inflight.entries,
          keepsDriver: this.inflight.keptAddress !== undefined,
        },
      }),
    };
  }

  /** Maps the areas of a predecessor. Throws HandedStateError or VhostUserError; `close` then releases what is there. */
  adopt(reader: HandedReader): void {
    this.log = reader.optional('log', (name) => areaOf(reader.object(name)));
    const inner = reader.optional('inflight', (name) => reader.object(name));
    if (inner) {
      const entries = inner.integer('entries', { min: 1, max: MAX_QUEUE_SIZE });
      const keepsDriver = inner.flag('keepsDriver');
      this.inflight = { entries, area: areaOf(inner), keptAddress: undefined };
      if (keepsDriver) this.inflight.keptAddress = keptAddressIn(this.inflight.area);
    }
    reader.end();
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

/** Throws VhostUserError when the area has no room for it. */
const keptAddressIn = ({ address, sizeBytes }: SharedArea): number => {
  if (sizeBytes < KEPT_BYTES) throw new VhostUserError('memory-region-invalid', { sizeBytes });
  return address + sizeBytes - KEPT_BYTES;
};

const areaOf = (reader: HandedReader): SharedArea => {
  const offsetBytes = reader.integer('offsetBytes');
  const sizeBytes = reader.integer('sizeBytes');
  const fd = reader.fd('fd');
  try {
    reader.end();
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return SharedArea.map(fd, offsetBytes, sizeBytes);
};
