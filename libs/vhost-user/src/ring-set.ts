import { native } from '@cairn/native';
import { FEATURE, FeatureSet, type RingAddresses, virtqueueBytes } from '@cairn/virtio';
import type { FrontEndMemory } from './front-end-memory.js';
import { type FdList, type HandedReader, HandedStateError, type HandedValue } from './handed-state.js';
import type { Message } from './messages.js';
import type { SharedAreas } from './shared-areas.js';
import type { VhostUserBackend } from './vhost-user-backend.js';
import { VhostUserError } from './vhost-user-error.js';
import { checkRingSize, Vring } from './vring.js';

/** Stops of rings: `resumes` says that they go on after a change that their front-end asked for. */
type StopOptions = { resumes: boolean };

/** The rings of one front-end: what it has said of each, and which of them the back-end processes. */
export class RingSet {
  /** What driver and device have agreed on; it decides how the rings are laid out. */
  features = FeatureSet.of();
  readonly all: readonly Vring[];

  constructor(
    private readonly backend: VhostUserBackend,
    private readonly memory: FrontEndMemory,
    private readonly areas: SharedAreas,
  ) {
    this.all = Array.from({ length: backend.queueCount }, (_, index) => new Vring(index));
  }

  get layout(): { packed: boolean } {
    return { packed: this.features.has(FEATURE.RING_PACKED) };
  }

  get anyRunning(): boolean {
    return this.all.some((vring) => vring.running);
  }

  /** Throws VhostUserError when there is no such ring. */
  get(index: number): Vring {
    const vring = this.all[index];
    if (!vring) throw new VhostUserError('vring-index-invalid', { index });
    return vring;
  }

  /** A ring that is not processed. Throws VhostUserError when it is. */
  stopped(index: number): Vring {
    const vring = this.get(index);
    if (vring.running) throw new VhostUserError('vring-running', { index });
    return vring;
  }

  setSize(index: number, size: number): void {
    const vring = this.stopped(index);
    checkRingSize(size, this.layout);
    vring.size = size;
  }

  setBase(index: number, nextAvail: number): void {
    const vring = this.stopped(index);
    if (vring.halted) this.settle(vring);
    vring.nextAvail = nextAvail;
  }

  /** Forgets the past of a ring that is not running: from here on the front-end alone says where it goes on. */
  settle(vring: Vring): void {
    this.areas.settleRing(vring, this.layout);
    vring.halted = false;
  }

  /** Takes new addresses; true when the ring's log address has changed, too, which needs all rings stopped. */
  setAddresses(message: Message): { vring: Vring; usedLogGpa: number | undefined; logMoved: boolean } {
    const { index, descriptors, avail, used, usedLogGpa } = message.vringAddress();
    const vring = this.get(index);
    const before = vring.addresses;
    const moved = before?.descriptors !== descriptors || before.avail !== avail || before.used !== used;
    if (moved) this.stopped(index).addresses = { descriptors, avail, used };
    return { vring, usedLogGpa, logMoved: vring.usedLogGpa !== usedLogGpa };
  }

  /** Every ring waits to be set up and enabled anew; none may be running. */
  disableAll(): void {
    for (const vring of this.all) {
      vring.started = false;
      vring.enabled = false;
    }
  }

  /** The device was reset: every ring is as at first; none may be running. */
  reset(): void {
    this.disableAll();
    for (const vring of this.all) {
      this.settle(vring);
      vring.nextAvail = 0;
    }
    this.features = FeatureSet.of();
  }

  /** Has a ring processed when all that it needs is there. Throws VhostUserError when it lies in no memory. */
  startIfReady(vring: Vring): void {
    const { mapped } = this.memory;
    if (vring.running || !vring.ready || !mapped || !vring.addresses) return;
    const user = vring.addresses;
    const bytes = virtqueueBytes(vring.size, this.layout);
    const gpaOf = (part: keyof RingAddresses): number => {
      const gpa = mapped.gpaOf(user[part], bytes[part]);
      if (gpa === undefined) throw new VhostUserError('vring-address-unmapped', { index: vring.index, part });
      return gpa;
    };
    const addresses = { descriptors: gpaOf('descriptors'), avail: gpaOf('avail'), used: gpaOf('used') };
    const inflight = this.areas.inflightOf(vring, this.layout);
    const log = this.features.has(FEATURE.VHOST_LOG_ALL) ? this.areas.logSlice : undefined;
    vring.running = true;
    vring.halted = false;
    this.backend.startRing({
      index: vring.index,
      size: vring.size,
      nextAvail: vring.nextAvail,
      addresses,
      layout: mapped.layout,
      fds: vring.fds,
      ...(inflight && { inflight }),
      ...(log && { log: { ...log, usedGpa: vring.usedLogGpa } }),
    });
    // Whoever ran it before may have died between the used ring and the call.
    if (inflight && vring.fds.callFd !== undefined) native.signalForeign(vring.fds.callFd);
  }

  startAll(): void {
    for (const vring of this.all) this.startIfReady(vring);
  }

  /** Calls `done` when nothing of the ring is in flight and no view over its memory is left. */
  stop(vring: Vring, done: () => void, options: StopOptions = { resumes: false }): void {
    if (!vring.running) return done();
    const stopped = (nextAvail: number): void => {
      vring.running = false;
      vring.halted = true;
      vring.nextAvail = nextAvail;
      done();
    };
    return this.backend.stopRing(vring.index, stopped, options);
  }

  stopAll(done: () => void, options: StopOptions = { resumes: false }): void {
    let left = 1;
    const one = (): void => {
      left -= 1;
      if (left === 0) done();
    };
    for (const vring of this.all) {
      left += 1;
      this.stop(vring, one, options);
    }
    one();
  }

  closeFds(): void {
    for (const vring of this.all) vring.closeFds();
  }

  /** What a successor needs to run the rings on; none may be running. */
  state(list: FdList): HandedValue[] {
    return this.all.map((vring) => vring.state(list));
  }

  /** Takes what a predecessor says of its rings. Throws HandedStateError or VhostUserError. */
  adopt(readers: readonly HandedReader[]): void {
    if (readers.length !== this.all.length) {
      throw new HandedStateError(`it has ${readers.length} rings, the device ${this.all.length}`);
    }
    readers.forEach((reader, index) => this.get(index).adopt(reader, this.layout));
  }
}
