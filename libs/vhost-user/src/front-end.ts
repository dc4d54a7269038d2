import { closeSync } from 'node:fs';
import { native } from '@cairn/native';
import { Connection } from './connection.js';
import { FrontEndMemory } from './front-end-memory.js';
import { adoptParts, stateOfParts } from './handed-session.js';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
import { BACKEND_CONFIG_CHANGE } from './message-table.js';
import { PROTOCOL_FEATURE, encode } from './messages.js';
import { RingSet } from './ring-set.js';
import { SharedAreas } from './shared-areas.js';
import type { VhostUserBackend } from './vhost-user-backend.js';
import { VhostUserError } from './vhost-user-error.js';

/** Every protocol feature that this back-end has, as a bit mask. */
export const PROTOCOL_FEATURES = Object.values(PROTOCOL_FEATURE).reduce<number>(
  (set, bit) => set | (1 << bit),
  0,
);

const NO_FDS = new Int32Array(1);

/**
 * All that one front-end has told and given us. Owns its socket, its memory and every descriptor of it.
 *
 * It knows nothing of time: when rings may change and when all is released is the session's to say.
 */
export class FrontEnd {
  readonly memory = new FrontEndMemory();
  readonly areas: SharedAreas;
  readonly rings: RingSet;
  status = 0;
  /** The channel on which we tell of a changed configuration. */
  backendFd: number | undefined;
  logFd: number | undefined;
  protocolFeatures = 0;

  constructor(
    readonly connection: Connection,
    readonly backend: VhostUserBackend,
  ) {
    this.areas = new SharedAreas(backend.queueCount);
    this.rings = new RingSet(backend, this.memory, this.areas);
  }

  /** Has the front-end taken away memory that it shared? */
  get memoryFaulted(): boolean {
    return this.memory.mapped?.faulted === true || this.areas.faulted;
  }

  /** Has this protocol feature been agreed on? */
  speaks(bit: number): boolean {
    return (this.protocolFeatures & (1 << bit)) !== 0;
  }

  /** Agrees to protocol features. Throws VhostUserError when we have not offered one of them. */
  agreeOn(low: number, high = 0): void {
    if (high !== 0 || (low & ~PROTOCOL_FEATURES) !== 0) {
      throw new VhostUserError('protocol-features-not-offered', { low, high });
    }
    this.protocolFeatures = low;
  }

  /** Tells the driver that the configuration space has changed; false when the front-end takes no such message. */
  notifyConfigChange(): boolean {
    if (this.backendFd === undefined) return false;
    const bytes = encode(BACKEND_CONFIG_CHANGE, 0, new Uint8Array(0));
    return native.send(this.backendFd, bytes, 0, bytes.length, NO_FDS, 0) === bytes.length;
  }

  /** Everything that a successor needs; no ring may be running. The descriptors stay ours. */
  state(list: FdList): HandedValue {
    return { connection: this.connection.state(list), ...stateOfParts(this, this, list) };
  }

  /** Reads all that `state` wrote but the connection. Throws HandedStateError or VhostUserError; `release` is then due. */
  adopt(reader: HandedReader): void {
    this.backendFd = reader.optional('backendFd', (name) => reader.fd(name));
    this.logFd = reader.optional('logFd', (name) => reader.fd(name));
    const { protocolFeatures, status } = adoptParts(reader, this, this.backend.offeredFeatures);
    this.agreeOn(protocolFeatures);
    this.status = status;
    this.backend.setFeatures(this.rings.features);
  }

  /** Unmaps its memory, then closes what it gave; no ring may be running. */
  release(): void {
    this.memory.close();
    this.areas.close();
    this.rings.closeFds();
    for (const fd of [this.backendFd, this.logFd]) if (fd !== undefined) closeSync(fd);
    this.connection.close();
  }
}
