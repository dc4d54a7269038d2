import { closeSync, readdirSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import { FEATURE } from '@cairn/virtio';
import { FakeDriver, GuestRam, type RamRegionSpec, bits } from '@cairn/virtio/testing';
import { Session } from '../session.js';
import type { VhostUserError } from '../vhost-user-error.js';
import { FakeFrontend, type VringAddresses } from './fake-frontend.js';
import { NotingBackend } from './noting-backend.js';
import { PROTOCOL_FEATURE } from './vhost-user-numbers.js';

/** What a rig's front-end agrees to unless a test says otherwise. */
export const RIG_FEATURES = bits(FEATURE.VERSION_1, FEATURE.VHOST_USER_PROTOCOL_FEATURES);
export const RIG_PROTOCOL = bits(PROTOCOL_FEATURE.MQ, PROTOCOL_FEATURE.REPLY_ACK, PROTOCOL_FEATURE.CONFIG);

/** The same, with what sessions rarely agree to: the log, the record of requests, resets, regions one by one. */
export const RIG_PROTOCOL_MORE =
  RIG_PROTOCOL |
  bits(
    PROTOCOL_FEATURE.LOG_SHMFD,
    PROTOCOL_FEATURE.INFLIGHT_SHMFD,
    PROTOCOL_FEATURE.RESET_DEVICE,
    PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS,
    PROTOCOL_FEATURE.STATUS,
  );

const RIG_MEMORY: readonly RamRegionSpec[] = [
  { gpa: 0, sizeBytes: 0x1_0000 },
  { gpa: 0x1_0000_0000, sizeBytes: 0x1_0000 },
];

const openDescriptors = () => readdirSync('/proc/self/fd').length;

/** A session on one end of a socket, a front-end on the other, and a device that writes down what it is told. */
export class SessionRig {
  readonly ram: GuestRam;
  readonly driver: FakeDriver;
  /** Three to give to rings. */
  readonly eventfds: readonly number[];
  readonly front: FakeFrontend;
  readonly backend = new NotingBackend();
  readonly session: Session;
  /** Why the session has ended, once for each time it said so. */
  readonly ends: (VhostUserError | undefined)[] = [];
  /** How often the session left messages in the socket. */
  more = 0;
  private readonly before = openDescriptors();

  constructor(memory: readonly RamRegionSpec[] = RIG_MEMORY) {
    this.ram = new GuestRam(memory);
    this.driver = new FakeDriver(this.ram, { size: 8, eventIdx: false });
    this.eventfds = Array.from({ length: 3 }, () => check('eventfd', native.eventfd(EFD_NONBLOCK)));
    const pair = new Int32Array(2);
    check('socketPair', native.socketPair(pair));
    this.front = new FakeFrontend(pair[0]!, { timeoutMs: 3000 });
    native.setNonblocking(pair[1]!, 1);
    this.session = Session.begin(pair[1]!, this.backend, {
      onClosed: (reason) => this.ends.push(reason),
      onMore: () => {
        this.more += 1;
      },
    });
  }

  /** Ends both sides. Throws unless the session ended once and left nothing of the front-end open. */
  close(): void {
    this.backend.busy = false;
    this.backend.drain();
    this.front.close();
    this.session.close();
    this.backend.drain();
    this.ram.close();
    for (const fd of this.eventfds) closeSync(fd);
    if (this.ends.length !== 1) throw new Error(`the session ended ${this.ends.length} times`);
    const left = openDescriptors() - this.before;
    if (left !== 0) throw new Error(`${left} descriptors stayed open`);
  }

  /** Lets the session hear until `work` is done. */
  async during<T>(work: Promise<T>): Promise<T> {
    const progress = { done: false };
    const end = work.finally(() => {
      progress.done = true;
    });
    end.catch(() => undefined);
    while (!progress.done) {
      this.session.onReadable();
      await setImmediate();
    }
    return end;
  }

  /** Lets the session hear what has been sent; the front-end sends at once, so one turn is enough. */
  hear(): void {
    this.session.onReadable();
  }

  get faults(): (string | undefined)[] {
    return this.ends.map((reason) => reason?.fault);
  }

  get addresses(): VringAddresses {
    const { ram, driver } = this;
    return {
      desc: ram.userAddress(driver.descGpa),
      used: ram.userAddress(driver.usedGpa),
      avail: ram.userAddress(driver.availGpa),
    };
  }

  async negotiate(features = RIG_FEATURES, protocol = RIG_PROTOCOL): Promise<void> {
    await this.during(this.front.setProtocolFeatures(protocol));
    await this.during(this.front.setFeatures(features));
  }

  /** Everything that a ring needs but being enabled; its base is 3. */
  async setUp(index = 0): Promise<void> {
    await this.during(this.front.setVringNum(index, 8));
    await this.during(this.front.setVringBase(index, 3));
    await this.during(this.front.setVringAddr(index, this.addresses));
    await this.during(this.front.setVringCall(index, this.eventfds[1]));
    await this.during(this.front.setVringKick(index, this.eventfds[0]));
  }

  async run(index = 0): Promise<void> {
    await this.setUp(index);
    await this.during(this.front.setVringEnable(index, true));
  }

  /** Ring 0 runs, and what led to that is not in the device's log. */
  async running(features = RIG_FEATURES, protocol = RIG_PROTOCOL): Promise<void> {
    await this.negotiate(features, protocol);
    await this.during(this.front.setMemTable(this.ram));
    await this.run();
    this.backend.log.length = 0;
  }
}
