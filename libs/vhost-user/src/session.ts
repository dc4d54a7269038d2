import { closeSync } from 'node:fs';
import { native } from '@cairn/native';
import { FEATURE, FeatureSet, type GuestMemory, ringBytes, type RingAddresses } from '@cairn/virtio';
import { Connection } from './connection.js';
import { MappedMemory } from './memory-table.js';
import { BACKEND_CONFIG_CHANGE, REQUEST, type MessageRule, type RequestCode } from './message-table.js';
import { HEADER_FLAG, type Message, PROTOCOL_FEATURE, encode, u64Payload } from './messages.js';
import { VhostUserError } from './vhost-user-error.js';
import { Vring, acceptEventfd } from './vring.js';

// One front-end, from its first message to its last. The order in which things end is the rule here:
//
//   stop rings → in-flight requests complete → views end → memory is unmapped → descriptors close
//
// A step that must wait for requests in flight makes the session deaf until it is done; messages wait in the socket.

/** A ring that is ready to be processed: addresses are guest physical, memory is mapped. */
export interface RingStart {
  vring: Vring;
  memory: GuestMemory;
  addresses: RingAddresses;
  /** Ends a view that was made for this ring; to be called when the ring has stopped. */
  endView: (view: ArrayBuffer) => void;
}

/** The device behind a session. `done` may be called at once or later, always exactly once. */
export interface VhostUserBackend {
  readonly queueCount: number;
  readonly offeredFeatures: FeatureSet;
  /** Called while no ring runs. */
  setFeatures(features: FeatureSet): void;
  startRing(start: RingStart): void;
  /** Stops taking requests and calls `done` with the next avail index when none is in flight. */
  stopRing(vring: Vring, done: (nextAvail: number) => void): void;
  /** The driver's kick or call descriptor of a running ring has been replaced. */
  ringDescriptorsChanged(vring: Vring): void;
  readConfig(offset: number, size: number): Uint8Array | undefined;
  /** `done(false)`: the driver may not write that. */
  writeConfig(offset: number, data: Uint8Array, done: (accepted: boolean) => void): void;
}

const PROTOCOL_FEATURES =
  (1 << PROTOCOL_FEATURE.MQ) |
  (1 << PROTOCOL_FEATURE.REPLY_ACK) |
  (1 << PROTOCOL_FEATURE.BACKEND_REQ) |
  (1 << PROTOCOL_FEATURE.CONFIG);

const NO_FDS = new Int32Array(1);

/** Messages handled in one go, so that a front-end that never stops talking does not hold the thread. */
const MESSAGES_AT_ONCE = 32;

/** Serves one front-end's connection; `onReadable` is called when its socket has something to say. */
export class Session {
  private readonly connection: Connection;
  private readonly vrings: Vring[];
  private mapped: MappedMemory | undefined;
  private features = FeatureSet.of();
  private protocolFeatures = 0;
  private backendFd: number | undefined;
  private waiting = false;
  private closing = false;

  /**
   * Owns `fd` from now on. `onClosed` is called once, when everything of this front-end is released; `onMore` when
   * `onReadable` left messages in the socket and is to be called again, after others had their turn.
   */
  constructor(
    fd: number,
    private readonly backend: VhostUserBackend,
    private readonly onClosed: (reason: VhostUserError | undefined) => void,
    private readonly onMore: () => void,
  ) {
    this.connection = new Connection(fd);
    this.vrings = Array.from({ length: backend.queueCount }, (_, index) => new Vring(index));
  }

  get fd(): number {
    return this.connection.fd;
  }

  /** Has the front-end taken away memory that it shared? */
  get memoryFaulted(): boolean {
    return this.mapped?.faulted ?? false;
  }

  /** Handles the messages that are there. Never throws: a front-end that breaks the protocol is disconnected. */
  onReadable(): void {
    try {
      for (let handled = 0; !this.waiting && !this.closing; handled += 1) {
        if (handled === MESSAGES_AT_ONCE) return this.onMore();
        const next = this.connection.next();
        if (next === undefined) return;
        if (next === 'closed') {
          this.close();
          return;
        }
        this.handle(next.message, next.rule);
      }
    } catch (error) {
      this.fail(error);
    }
  }

  /** Stops every ring, waits for what is in flight, releases everything, calls `onClosed`. Idempotent. */
  close(reason?: VhostUserError): void {
    if (this.closing) return;
    this.closing = true;
    this.stopRings(() => {
      this.mapped?.unmap();
      this.mapped = undefined;
      for (const vring of this.vrings) vring.closeFds();
      if (this.backendFd !== undefined) closeSync(this.backendFd);
      this.backendFd = undefined;
      this.connection.close();
      this.onClosed(reason);
    });
  }

  /** Tells the driver that the configuration space has changed; false when the front-end takes no such message. */
  notifyConfigChange(): boolean {
    if (this.backendFd === undefined || this.closing) return false;
    const bytes = encode(BACKEND_CONFIG_CHANGE, 0, new Uint8Array(0));
    return native.send(this.backendFd, bytes, 0, bytes.length, NO_FDS, 0) === bytes.length;
  }

  private fail(error: unknown): void {
    // Anything else is our own fault (or the host's); it costs this connection all the same, not the process.
    const known = error instanceof VhostUserError;
    this.close(known ? error : new VhostUserError('internal', { message: String(error) }, { cause: error }));
  }

  private handle(message: Message, rule: MessageRule): void {
    const owned = new Set(message.fds);
    const keep = (fd: number): number => {
      owned.delete(fd);
      return fd;
    };
    try {
      if (rule.needs !== undefined && (this.protocolFeatures & (1 << rule.needs)) === 0) {
        throw new VhostUserError('message-not-negotiated', { code: message.code });
      }
      this.dispatch(message, keep);
    } catch (error) {
      if (error instanceof VhostUserError && !rule.replies) this.acknowledge(message, 1);
      throw error;
    } finally {
      for (const fd of owned) closeSync(fd);
    }
  }

  private dispatch(message: Message, keep: (fd: number) => number): void {
    switch (message.code as RequestCode) {
      case REQUEST.GET_FEATURES: {
        const { low, high } = this.backend.offeredFeatures;
        return this.reply(message, u64Payload(low, high));
      }
      case REQUEST.SET_FEATURES:
        return this.setFeatures(message);
      case REQUEST.GET_PROTOCOL_FEATURES:
        return this.reply(message, u64Payload(PROTOCOL_FEATURES));
      case REQUEST.SET_PROTOCOL_FEATURES:
        return this.setProtocolFeatures(message);
      case REQUEST.SET_OWNER:
      case REQUEST.RESET_OWNER: // deprecated: "back-ends should ignore it" (vhost-user spec)
        return this.acknowledge(message, 0);
      case REQUEST.SET_MEM_TABLE:
        return this.setMemory(message, keep);
      case REQUEST.SET_VRING_NUM:
        return this.setVringSize(message);
      case REQUEST.SET_VRING_ADDR:
        return this.setVringAddresses(message);
      case REQUEST.SET_VRING_BASE:
        this.stoppedVring(message.u32(0)).nextAvail = message.u32(4) & 0xffff;
        return this.acknowledge(message, 0);
      case REQUEST.GET_VRING_BASE:
        return this.getVringBase(message);
      case REQUEST.SET_VRING_KICK:
        return this.setVringKick(message, keep);
      case REQUEST.SET_VRING_CALL:
        return this.setVringFd(message, 'callFd', keep);
      case REQUEST.SET_VRING_ERR:
        return this.setVringFd(message, 'errFd', keep);
      case REQUEST.GET_QUEUE_NUM:
        return this.reply(message, u64Payload(this.backend.queueCount));
      case REQUEST.SET_VRING_ENABLE:
        return this.setVringEnable(message);
      case REQUEST.SET_BACKEND_REQ_FD:
        return this.setBackendChannel(message, keep);
      case REQUEST.GET_CONFIG:
        return this.getConfig(message);
      case REQUEST.SET_CONFIG: {
        const { offset, data } = message.config();
        return this.wait((resume) =>
          this.backend.writeConfig(offset, data, (accepted) => {
            resume(() => {
              if (!accepted) throw new VhostUserError('config-invalid', { offset, size: data.length });
              this.acknowledge(message, 0);
            });
          }),
        );
      }
    }
  }

  private setFeatures(message: Message): void {
    const features = FeatureSet.fromWords(message.u32(0), message.u32(4));
    if (!features.isSubsetOf(this.backend.offeredFeatures)) {
      throw new VhostUserError('features-not-offered', { low: features.low, high: features.high });
    }
    const same = features.low === this.features.low && features.high === this.features.high;
    if (!same) {
      if (this.vrings.some((vring) => vring.running)) throw new VhostUserError('vring-running');
      this.features = features;
      this.backend.setFeatures(features);
    }
    // vhost-user spec, "Ring states": without protocol features rings are enabled from the start.
    if (!features.has(FEATURE.VHOST_USER_PROTOCOL_FEATURES)) {
      for (const vring of this.vrings) {
        vring.enabled = true;
        this.startIfReady(vring);
      }
    }
    this.acknowledge(message, 0);
  }

  private setProtocolFeatures(message: Message): void {
    const low = message.u32(0);
    if (message.u32(4) !== 0 || (low & ~PROTOCOL_FEATURES) !== 0) {
      throw new VhostUserError('protocol-features-not-offered', { low, high: message.u32(4) });
    }
    this.protocolFeatures = low;
    this.acknowledge(message, 0);
  }

  private setMemory(message: Message, keep: (fd: number) => number): void {
    const regions = message.regions();
    const next = MappedMemory.map(regions, message.fds.map(keep));
    this.wait((resume) =>
      this.stopRings(() => {
        this.mapped?.unmap();
        this.mapped = next;
        resume(() => {
          for (const vring of this.vrings) this.startIfReady(vring);
          this.acknowledge(message, 0);
        });
      }),
    );
  }

  private setVringSize(message: Message): void {
    const vring = this.stoppedVring(message.u32(0));
    const size = message.u32(4);
    // virtio 1.2 §2.7: a power of two, at most 32768.
    if (size < 1 || size > 32768 || (size & (size - 1)) !== 0)
      throw new VhostUserError('vring-size-invalid', { size });
    vring.size = size;
    this.acknowledge(message, 0);
  }

  private setVringAddresses(message: Message): void {
    const { index, descriptors, avail, used } = message.vringAddress();
    const vring = this.vring(index);
    const before = vring.addresses;
    const same = before?.descriptors === descriptors && before.avail === avail && before.used === used;
    if (!same) this.stoppedVring(index).addresses = { descriptors, avail, used };
    this.acknowledge(message, 0);
  }

  private getVringBase(message: Message): void {
    const vring = this.vring(message.u32(0));
    this.wait((resume) =>
      this.stopRing(vring, () => {
        vring.started = false;
        vring.replaceFd('kickFd', undefined);
        vring.replaceFd('callFd', undefined);
        const payload = new Uint8Array(8);
        const view = new DataView(payload.buffer);
        view.setUint32(0, vring.index, true);
        view.setUint32(4, vring.nextAvail, true);
        resume(() => this.reply(message, payload));
      }),
    );
  }

  private setVringKick(message: Message, keep: (fd: number) => number): void {
    const { index, fd } = message.vringFile();
    const vring = this.vring(index);
    if (fd !== undefined) acceptEventfd(fd);
    vring.replaceFd('kickFd', fd === undefined ? undefined : keep(fd));
    vring.started = true;
    if (vring.running) this.backend.ringDescriptorsChanged(vring);
    else this.startIfReady(vring);
    this.acknowledge(message, 0);
  }

  private setVringFd(message: Message, which: 'callFd' | 'errFd', keep: (fd: number) => number): void {
    const { index, fd } = message.vringFile();
    const vring = this.vring(index);
    if (fd !== undefined) acceptEventfd(fd);
    vring.replaceFd(which, fd === undefined ? undefined : keep(fd));
    if (vring.running) this.backend.ringDescriptorsChanged(vring);
    this.acknowledge(message, 0);
  }

  private setVringEnable(message: Message): void {
    const vring = this.vring(message.u32(0));
    vring.enabled = message.u32(4) !== 0;
    if (vring.enabled) {
      this.startIfReady(vring);
      return this.acknowledge(message, 0);
    }
    return this.wait((resume) => this.stopRing(vring, () => resume(() => this.acknowledge(message, 0))));
  }

  private setBackendChannel(message: Message, keep: (fd: number) => number): void {
    const [fd] = message.fds;
    if (fd === undefined)
      throw new VhostUserError('descriptor-count-invalid', { code: message.code, count: 0 });
    native.setNonblocking(fd, 1);
    if (this.backendFd !== undefined) closeSync(this.backendFd);
    this.backendFd = keep(fd);
    this.acknowledge(message, 0);
  }

  private getConfig(message: Message): void {
    const { offset, size } = message.config();
    const data = this.backend.readConfig(offset, size);
    if (!data) {
      // vhost-user spec, GET_CONFIG: an empty payload tells of the error.
      return this.reply(message, new Uint8Array(0));
    }
    const payload = message.payload.slice();
    payload.set(data, 12);
    return this.reply(message, payload);
  }

  private startIfReady(vring: Vring): void {
    if (vring.running || !vring.ready || !this.mapped || !vring.addresses) return;
    const { mapped } = this;
    const bytes = ringBytes(vring.size);
    const gpaOf = (part: keyof RingAddresses): number => {
      const address = vring.addresses![part];
      const gpa = mapped.gpaOf(address, bytes[part]);
      if (gpa === undefined) throw new VhostUserError('vring-address-unmapped', { index: vring.index, part });
      return gpa;
    };
    const addresses = { descriptors: gpaOf('descriptors'), avail: gpaOf('avail'), used: gpaOf('used') };
    vring.running = true;
    this.backend.startRing({
      vring,
      memory: mapped.memory,
      addresses,
      endView: (view) => mapped.endView(view),
    });
  }

  private stopRing(vring: Vring, done: () => void): void {
    if (!vring.running) return done();
    return this.backend.stopRing(vring, (nextAvail) => {
      vring.running = false;
      vring.nextAvail = nextAvail;
      done();
    });
  }

  private stopRings(done: () => void): void {
    let left = 1;
    const one = (): void => {
      left -= 1;
      if (left === 0) done();
    };
    for (const vring of this.vrings) {
      left += 1;
      this.stopRing(vring, one);
    }
    one();
  }

  /** Hears no further message until `resume` is called; what `resume` runs may break the protocol's rules, too. */
  private wait(begin: (resume: (then: () => void) => void) => void): void {
    this.waiting = true;
    let resumedAtOnce = true;
    begin((then) => {
      this.waiting = false;
      if (this.closing) return;
      if (resumedAtOnce) return then();
      try {
        then();
      } catch (error) {
        return this.fail(error);
      }
      return this.onReadable();
    });
    resumedAtOnce = false;
  }

  private vring(index: number): Vring {
    const vring = this.vrings[index];
    if (!vring) throw new VhostUserError('vring-index-invalid', { index });
    return vring;
  }

  private stoppedVring(index: number): Vring {
    const vring = this.vring(index);
    if (vring.running) throw new VhostUserError('vring-running', { index });
    return vring;
  }

  private reply(message: Message, payload: Uint8Array): void {
    this.connection.reply(message.code, payload);
  }

  /** Answers a message that has no answer of its own, when the front-end asked for one (REPLY_ACK). */
  private acknowledge(message: Message, result: number): void {
    const wanted = (message.flags & HEADER_FLAG.NEED_REPLY) !== 0;
    if (wanted && (this.protocolFeatures & (1 << PROTOCOL_FEATURE.REPLY_ACK)) !== 0) {
      this.reply(message, u64Payload(result));
    }
  }
}
