import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { inflightBytes } from '@cairn/virtio';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
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

/**
 * The memory beside the guest's that a front-end shares with us: the dirty log and the record of requests in flight.
 *
 * A front-end may keep no such record. When its rings are handed to another process, they get one all the same, of our
 * own: whoever takes them back from a process that died learns from it where to go on.
 */
export class SharedAreas {
  private log: SharedArea | undefined;
  private given: Records | undefined;
  private own: Records | undefined;

  constructor(private readonly queueCount: number) {}

  /** Has the front-end taken away memory that it shared? */
  get faulted(): boolean {
    return this.log?.faulted === true || this.given?.area.faulted === true;
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
    this.dropOwn();
    this.given?.area.unmap();
    this.given = { area, entries: queueSize };
  }

  /** Where a ring's requests in flight are recorded; undefined when nobody keeps a record of them. */
  inflightOf(vring: Vring, options: { packed: boolean }): RingStart['inflight'] {
    return sliceOf(this.given, vring, options) ?? sliceOf(this.own, vring, options);
  }

  /** Makes a record of our own when one of the rings has none; no ring may be running. */
  ensureInflight(vrings: readonly Vring[], options: { packed: boolean }): void {
    const bare = vrings.filter((vring) => vring.size > 0 && !this.inflightOf(vring, options));
    if (bare.length === 0) return;
    this.dropOwn();
    const entries = Math.max(...bare.map((vring) => vring.size));
    const sizeBytes = inflightBytes(entries, options) * vrings.length;
    const fd = check('memfd_create', native.memfd('cairn-inflight', sizeBytes));
    this.own = { area: SharedArea.map(fd, 0, sizeBytes), entries };
  }

  /** The front-end says where a ring goes on: what our own record knew of it is over. */
  forgetRing(vring: Vring, options: { packed: boolean }): void {
    clear(sliceOf(this.own, vring, options));
  }

  /**
   * A ring has stopped with nothing in flight, and its front-end knows where: it may go on anywhere, also from its
   * beginning, as after a reset. A packed ring's record would lead back to where it was.
   */
  settleRing(vring: Vring, options: { packed: boolean }): void {
    clear(sliceOf(this.given, vring, options));
  }

  /** Drops our own record; no ring may be running. */
  dropOwn(): void {
    this.own?.area.unmap();
    this.own = undefined;
  }

  close(): void {
    this.log?.unmap();
    this.log = undefined;
    this.given?.area.unmap();
    this.given = undefined;
    this.dropOwn();
  }

  /** What a successor needs to have the same areas. */
  state(list: FdList): Record<string, HandedValue> {
    const of = (area: SharedArea): Record<string, HandedValue> => ({
      offsetBytes: area.offsetBytes,
      sizeBytes: area.sizeBytes,
      fd: list.add(area.fd),
    });
    return {
      ...(this.log && { log: of(this.log) }),
      ...(this.given && { inflight: { ...of(this.given.area), entries: this.given.entries } }),
      ...(this.own && { ownInflight: { ...of(this.own.area), entries: this.own.entries } }),
    };
  }

  /** Maps the areas of a predecessor. Throws HandedStateError or VhostUserError; `close` then releases what is there. */
  adopt(reader: HandedReader): void {
    this.log = reader.optional('log', (name) => areaOf(reader.object(name)));
    this.given = reader.optional('inflight', (name) => recordsOf(reader.object(name)));
    this.own = reader.optional('ownInflight', (name) => recordsOf(reader.object(name)));
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

const recordsOf = (reader: HandedReader): Records => {
  const entries = reader.integer('entries', { min: 1, max: MAX_QUEUE_SIZE });
  return { entries, area: areaOf(reader) };
};
