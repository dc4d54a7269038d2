import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { FEATURE, FeatureSet } from '@cairn/virtio';
import { Connection } from './connection.js';
import { FrontEndMemory, type NextMemory } from './front-end-memory.js';
import { adoptParts, type SessionParts, stateOfParts } from './handed-session.js';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
import { SharedArea } from './memory-table.js';
import { BACKEND_CONFIG_CHANGE, REQUEST, type MessageRule, type RequestCode } from './message-table.js';
import {
  HEADER_FLAG,
  MAX_MEMORY_SLOTS,
  type Message,
  PROTOCOL_FEATURE,
  encode,
  inflightPayload,
  u64Payload,
} from './messages.js';
import { RingSet } from './ring-set.js';
import { SharedAreas } from './shared-areas.js';
import type { VhostUserBackend } from './vhost-user-backend.js';
import { VhostUserError } from './vhost-user-error.js';
import { type RingFds, acceptEventfd } from './vring.js';

// One front-end, from its first message to its last. The order in which things end is the rule here:
//
//   stop rings → in-flight requests complete → views end → memory is unmapped → descriptors close
//
// A step that must wait for requests in flight makes the session deaf until it is done; messages wait in the socket.

const PROTOCOL_FEATURES = Object.values(PROTOCOL_FEATURE).reduce<number>((set, bit) => set | (1 << bit), 0);
const LOG_ALL_MASK = 1 << FEATURE.VHOST_LOG_ALL;
const NO_FDS = new Int32Array(1);

/**
 * Where the configuration space begins among the registers of virtio-mmio (virtio 1.2 §4.2.2), and, for Cloud Hypervisor,
 * in GET_CONFIG. No space has anything so far behind its beginning (VHOST_USER_MAX_CONFIG_SIZE).
 */
const MMIO_CONFIG_OFFSET = 0x100;

type Keep = (fd: number) => number;

/** Messages handled in one go, so that a front-end that never stops talking does not hold the thread. */
const MESSAGES_AT_ONCE = 32;

/** What a session tells whoever has it. */
export interface SessionEvents {
  /** Called once, when everything of this front-end is released. */
  onClosed: (reason: VhostUserError | undefined) => void;
  /** `onReadable` left messages in the socket and is to be called again, after others had their turn. */
  onMore: () => void;
}

/** Serves one front-end's connection; `onReadable` is called when its socket has something to say. */
export class Session {
  private readonly memory = new FrontEndMemory();
  private readonly areas: SharedAreas;
  private readonly rings: RingSet;
  private protocolFeatures = 0;
  private status = 0;
  private backendFd: number | undefined;
  private logFd: number | undefined;
  private waiting = false;
  private closing = false;
  /** Set while a successor may take over: nothing is heard, no ring is started. */
  private suspension: { done: () => void } | undefined;

  private constructor(
    private readonly connection: Connection,
    private readonly backend: VhostUserBackend,
    private readonly events: SessionEvents,
  ) {
    this.areas = new SharedAreas(backend.queueCount);
    this.rings = new RingSet(backend, this.memory, this.areas);
  }

  /** A front-end that has just connected; owns the socket from now on. */
  static begin(fd: number, backend: VhostUserBackend, events: SessionEvents): Session {
    return new Session(new Connection(fd), backend, events);
  }

  get fd(): number {
    return this.connection.fd;
  }

  /** Has the front-end taken away memory that it shared? */
  get memoryFaulted(): boolean {
    return this.memory.mapped?.faulted === true || this.areas.faulted;
  }

  /** Handles the messages that are there. Never throws: a front-end that breaks the protocol is disconnected. */
  onReadable(): void {
    try {
      for (let handled = 0; !this.waiting && !this.closing && !this.suspension; handled += 1) {
        if (handled === MESSAGES_AT_ONCE) return this.events.onMore();
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
    this.rings.stopAll(() => {
      this.memory.close();
      this.areas.close();
      this.rings.closeFds();
      for (const fd of [this.backendFd, this.logFd]) if (fd !== undefined) closeSync(fd);
      this.connection.close();
      this.events.onClosed(reason);
    });
  }

  /** Tells the driver that the configuration space has changed; false when the front-end takes no such message. */
  notifyConfigChange(): boolean {
    if (this.backendFd === undefined || this.closing) return false;
    const bytes = encode(BACKEND_CONFIG_CHANGE, 0, new Uint8Array(0));
    return native.send(this.backendFd, bytes, 0, bytes.length, NO_FDS, 0) === bytes.length;
  }

  /**
   * Calls `done` when nothing of this front-end is going on any more: its message is answered, its rings have stopped.
   * From then on `state` tells all, until `resume`. Not called when the session closes first, or `resume` comes first.
   */
  suspend(done: () => void): void {
    this.suspension = { done };
    if (!this.waiting && !this.closing) this.standStill();
  }

  /** Goes on after `suspend`, as far as that had come, or after `adopt`; what is in the socket is for `onReadable`. */
  resume(): void {
    this.suspension = undefined;
    this.goOn();
  }

  /** Everything that a successor needs to go on with this front-end, once `suspend` is done; the descriptors stay ours. */
  state(list: FdList): HandedValue {
    const { protocolFeatures, status, backendFd, logFd } = this;
    return {
      connection: this.connection.state(list),
      ...stateOfParts(this.parts, { protocolFeatures, status, backendFd, logFd }, list),
    };
  }

  /**
   * Takes over a predecessor's front-end; it stands still until `resume`. `events` are those of the constructor.
   *
   * Throws HandedStateError or VhostUserError when the state is not one that this version can go on from; then nothing
   * of it is left but what is in the bag.
   */
  static adopt(reader: HandedReader, backend: VhostUserBackend, events: SessionEvents): Session {
    const connection = Connection.adopt(reader.object('connection'));
    let adopted = false;
    const onClosed = (reason: VhostUserError | undefined): void => {
      if (adopted) events.onClosed(reason);
    };
    const session = new Session(connection, backend, { ...events, onClosed });
    session.suspension = { done: () => undefined };
    try {
      session.restore(reader);
    } catch (error) {
      session.close();
      throw error;
    }
    adopted = true;
    return session;
  }

  private get parts(): SessionParts {
    return { memory: this.memory, areas: this.areas, rings: this.rings };
  }

  private restore(reader: HandedReader): void {
    this.backendFd = reader.optional('backendFd', (name) => reader.fd(name));
    this.logFd = reader.optional('logFd', (name) => reader.fd(name));
    const { protocolFeatures, status } = adoptParts(reader, this.parts, this.backend.offeredFeatures);
    if ((protocolFeatures & ~PROTOCOL_FEATURES) !== 0) {
      throw new VhostUserError('protocol-features-not-offered', { low: protocolFeatures });
    }
    this.protocolFeatures = protocolFeatures;
    this.status = status;
    this.backend.setFeatures(this.rings.features);
  }

  private standStill(): void {
    const { suspension } = this;
    const stopped = (): void => {
      if (this.closing) return;
      if (this.suspension === suspension) suspension?.done();
      else if (!this.suspension) this.goOn();
    };
    this.rings.stopAll(stopped, { resumes: true });
  }

  private goOn(): void {
    if (this.closing) return;
    try {
      this.rings.startAll();
    } catch (error) {
      this.fail(error);
    }
  }

  private fail(error: unknown): void {
    // Anything else is our own fault (or the host's); it costs this connection all the same, not the process.
    const known = error instanceof VhostUserError;
    this.close(known ? error : new VhostUserError('internal', { message: String(error) }, { cause: error }));
  }

  private handle(message: Message, rule: MessageRule): void {
    const owned = new Set(message.fds);
    const keep: Keep = (fd) => {
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

  private dispatch(message: Message, keep: Keep): void {
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
        return this.changeMemory(message, this.memory.replace(message.regions(), message.fds.map(keep)));
      case REQUEST.GET_MAX_MEM_SLOTS:
        return this.reply(message, u64Payload(MAX_MEMORY_SLOTS));
      case REQUEST.ADD_MEM_REG: {
        const region = message.region();
        return this.changeMemory(message, this.memory.add(region, keep(onlyFd(message))));
      }
      case REQUEST.REM_MEM_REG:
        return this.changeMemory(message, this.memory.remove(message.region()));
      case REQUEST.SET_LOG_BASE:
        return this.setLog(message, keep);
      case REQUEST.SET_LOG_FD:
        this.logFd = replaced(this.logFd, message, keep);
        return this.acknowledge(message, 0);
      case REQUEST.GET_INFLIGHT_FD:
        return this.getInflight(message);
      case REQUEST.SET_INFLIGHT_FD:
        return this.setInflight(message, keep);
      case REQUEST.SET_VRING_NUM:
        this.rings.setSize(message.u32(0), message.u32(4));
        return this.acknowledge(message, 0);
      case REQUEST.SET_VRING_ADDR:
        return this.setVringAddresses(message);
      case REQUEST.SET_VRING_BASE:
        this.rings.setBase(message.u32(0), message.u32(4));
        return this.acknowledge(message, 0);
      case REQUEST.GET_VRING_BASE:
        return this.getVringBase(message);
      case REQUEST.SET_VRING_KICK:
        return this.setVringFd(message, 'kickFd', keep);
      case REQUEST.SET_VRING_CALL:
        return this.setVringFd(message, 'callFd', keep);
      case REQUEST.SET_VRING_ERR:
        return this.setVringFd(message, 'errFd', keep);
      case REQUEST.GET_QUEUE_NUM:
        return this.reply(message, u64Payload(this.backend.queueCount));
      case REQUEST.SET_VRING_ENABLE:
        return this.setVringEnable(message);
      case REQUEST.SET_BACKEND_REQ_FD:
        native.setNonblocking(onlyFd(message), 1);
        this.backendFd = replaced(this.backendFd, message, keep);
        return this.acknowledge(message, 0);
      case REQUEST.GET_CONFIG:
        return this.getConfig(message);
      case REQUEST.SET_CONFIG:
        return this.setConfig(message);
      case REQUEST.RESET_DEVICE:
        return this.resetDevice(message);
      case REQUEST.SET_STATUS:
        this.status = message.u32(0) & 0xff;
        if (this.status === 0) return this.stopDevice(message);
        return this.acknowledge(message, 0);
      case REQUEST.GET_STATUS:
        return this.reply(message, u64Payload(this.status));
    }
  }

  private setFeatures(message: Message): void {
    const features = FeatureSet.fromWords(message.u32(0), message.u32(4));
    if (!features.isSubsetOf(this.backend.offeredFeatures)) {
      throw new VhostUserError('features-not-offered', { low: features.low, high: features.high });
    }
    const same = features.low === this.rings.features.low && features.high === this.rings.features.high;
    // Dirty logging goes on and off while the guest runs; nothing else may change then.
    const onlyLog =
      ((features.low ^ this.rings.features.low) & ~LOG_ALL_MASK) === 0 &&
      features.high === this.rings.features.high;
    if (!onlyLog && this.rings.anyRunning) throw new VhostUserError('vring-running');
    const change = (): void => {
      if (!same) {
        this.rings.features = features;
        this.backend.setFeatures(features);
      }
      // vhost-user spec, "Ring states": without protocol features rings are enabled from the start.
      if (!features.has(FEATURE.VHOST_USER_PROTOCOL_FEATURES)) {
        for (const vring of this.rings.all) vring.enabled = true;
      }
    };
    if (!same) return this.whileStopped(message, change);
    change();
    this.rings.startAll();
    return this.acknowledge(message, 0);
  }

  private setProtocolFeatures(message: Message): void {
    const low = message.u32(0);
    if (message.u32(4) !== 0 || (low & ~PROTOCOL_FEATURES) !== 0) {
      throw new VhostUserError('protocol-features-not-offered', { low, high: message.u32(4) });
    }
    this.protocolFeatures = low;
    this.acknowledge(message, 0);
  }

  private changeMemory(message: Message, next: NextMemory): void {
    let used = false;
    this.whileStopped(
      message,
      () => {
        used = true;
        this.memory.commit(next);
      },
      () => {
        if (!used) this.memory.discard(next);
      },
    );
  }

  private setLog(message: Message, keep: Keep): void {
    const { sizeBytes, offsetBytes } = message.log();
    const log = SharedArea.map(keep(onlyFd(message)), offsetBytes, sizeBytes);
    let used = false;
    this.whileStopped(
      message,
      () => {
        used = true;
        this.areas.useLog(log);
      },
      () => {
        if (!used) log.unmap();
      },
      () => this.reply(message, u64Payload(0)),
    );
  }

  /** Makes the area in which requests in flight are tracked, and gives it to the front-end to keep. */
  private getInflight(message: Message): void {
    const { numQueues, queueSize } = message.inflight();
    const sizeBytes = this.areas.newInflightBytes(numQueues, queueSize, this.rings.layout);
    const fd = check('memfd_create', native.memfd('cairn-inflight', sizeBytes));
    try {
      const payload = inflightPayload(
        { sizeBytes, offsetBytes: 0, numQueues, queueSize },
        message.payload.length,
      );
      this.connection.reply(message.code, payload, [fd]);
    } finally {
      closeSync(fd);
    }
  }

  private setInflight(message: Message, keep: Keep): void {
    if (this.rings.anyRunning) throw new VhostUserError('vring-running');
    this.areas.useInflight(message.inflight(), keep(onlyFd(message)), this.rings.layout);
    const { driverState } = this.areas;
    if (driverState === undefined) this.areas.keepDriverState(this.backend.driverState);
    else this.backend.restoreDriverState(driverState);
    this.acknowledge(message, 0);
  }

  private setVringAddresses(message: Message): void {
    const { vring, usedLogGpa, logMoved } = this.rings.setAddresses(message);
    if (!logMoved) return this.acknowledge(message, 0);
    return this.whileStopped(message, () => {
      vring.usedLogGpa = usedLogGpa;
    });
  }

  private getVringBase(message: Message): void {
    const vring = this.rings.get(message.u32(0));
    this.wait((resume) =>
      this.rings.stop(vring, () => {
        vring.started = false;
        for (const which of ['kickFd', 'callFd'] as const) closeIfThere(vring.replaceFd(which, undefined));
        const payload = new Uint8Array(8);
        const view = new DataView(payload.buffer);
        view.setUint32(0, vring.index, true);
        view.setUint32(4, vring.nextAvail, true);
        resume(() => {
          this.reply(message, payload);
          // Not before: who does not know the answer needs the record.
          this.rings.settle(vring);
        });
      }),
    );
  }

  private setVringFd(message: Message, which: keyof RingFds, keep: Keep): void {
    const { index, fd } = message.vringFile();
    const vring = this.rings.get(index);
    if (fd !== undefined) acceptEventfd(fd);
    const before = vring.replaceFd(which, fd === undefined ? undefined : keep(fd));
    if (which === 'kickFd') vring.started = true;
    if (!vring.running) {
      closeIfThere(before);
      this.rings.startIfReady(vring);
      return this.acknowledge(message, 0);
    }
    return this.wait((resume) =>
      this.backend.setRingFds(index, vring.fds, () => {
        closeIfThere(before);
        resume(() => this.acknowledge(message, 0));
      }),
    );
  }

  private setVringEnable(message: Message): void {
    const vring = this.rings.get(message.u32(0));
    vring.enabled = message.u32(4) !== 0;
    if (vring.enabled) {
      this.rings.startIfReady(vring);
      return this.acknowledge(message, 0);
    }
    return this.wait((resume) => this.rings.stop(vring, () => resume(() => this.acknowledge(message, 0))));
  }

  private getConfig(message: Message): void {
    const { offset, size } = message.config();
    const data = this.backend.readConfig(
      offset < MMIO_CONFIG_OFFSET ? offset : offset - MMIO_CONFIG_OFFSET,
      size,
    );
    // vhost-user spec, GET_CONFIG: an empty payload tells of the error.
    if (!data) return this.reply(message, new Uint8Array(0));
    const payload = message.payload.slice();
    payload.set(data, 12);
    return this.reply(message, payload);
  }

  private setConfig(message: Message): void {
    const { offset, data } = message.config();
    this.wait((resume) =>
      this.backend.writeConfig(offset, data, (accepted) => {
        resume(() => {
          if (!accepted) throw new VhostUserError('config-invalid', { offset, size: data.length });
          this.areas.keepDriverState(this.backend.driverState);
          this.acknowledge(message, 0);
        });
      }),
    );
  }

  /**
   * A status of 0 is all that tells of a reset, and QEMU sends it also when it only pauses or migrates the guest. QEMU
   * before 8.1 then asks where the rings have stopped: that, what the guest has configured, and the record of a packed
   * ring, which alone tells where it was to who comes after a crash, are not forgotten. A driver that starts over is
   * given a new base for its rings.
   */
  private stopDevice(message: Message): void {
    this.wait((resume) =>
      this.rings.stopAll(() => {
        this.rings.disableAll();
        resume(() => this.acknowledge(message, 0));
      }),
    );
  }

  /** vhost-user spec, RESET_DEVICE: all rings disabled, the device as after a reset; memory and sockets stay. */
  private resetDevice(message: Message): void {
    this.wait((resume) =>
      this.rings.stopAll(() => {
        this.rings.reset();
        this.status = 0;
        this.backend.reset();
        this.areas.keepDriverState(this.backend.driverState);
        resume(() => this.acknowledge(message, 0));
      }),
    );
  }

  /**
   * Stops every ring, runs `change`, starts them again and answers. `settled` runs at the end in any case, also when
   * the session closed meanwhile and `change` did not run.
   */
  private whileStopped(
    message: Message,
    change: () => void,
    settled: () => void = () => undefined,
    answer: () => void = () => this.acknowledge(message, 0),
  ): void {
    this.wait((resume) =>
      this.rings.stopAll(
        () => {
          if (!this.closing) change();
          settled();
          resume(() => {
            this.rings.startAll();
            answer();
          });
        },
        { resumes: true },
      ),
    );
  }

  /** Hears no further message until `resume` is called; what `resume` runs may break the protocol's rules, too. */
  private wait(begin: (resume: (then: () => void) => void) => void): void {
    this.waiting = true;
    let atOnce = true;
    begin((then) => {
      this.waiting = false;
      if (this.closing) return;
      if (atOnce) return then();
      try {
        then();
      } catch (error) {
        return this.fail(error);
      }
      return this.suspension ? this.standStill() : this.onReadable();
    });
    atOnce = false;
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

const onlyFd = (message: Message): number => {
  const [fd] = message.fds;
  if (fd === undefined)
    throw new VhostUserError('descriptor-count-invalid', { code: message.code, count: 0 });
  return fd;
};

const replaced = (before: number | undefined, message: Message, keep: Keep): number => {
  const fd = keep(onlyFd(message));
  closeIfThere(before);
  return fd;
};

const closeIfThere = (fd: number | undefined): void => {
  if (fd !== undefined) closeSync(fd);
};
