import { closeSync } from 'node:fs';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import {
  FakeDriver,
  FakePackedDriver,
  makeRingDriver,
  type GuestRam,
  type RingDriver,
} from '@cairn/virtio/testing';

/** How a queue learns of used chains: by the call eventfd alone, as a guest, or by looking, with calls suppressed. */
export type Notify = 'call' | 'poll';

/** Where a queue's ring lies and what it looks like. */
export interface FakeQueueOptions {
  size: number;
  eventIdx: boolean;
  packed?: boolean;
  base?: number | undefined;
  region?: number | undefined;
}

/** A virtqueue with its eventfds, honest about notifications: it kicks only when asked to, and looks only when called. */
export class FakeQueue {
  /** The ring, whatever its layout. */
  ring: RingDriver;
  readonly kickFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
  readonly callFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
  readonly errFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
  /** Kicks sent and calls received. */
  kicks = 0;
  calls = 0;
  /** While set, chains are submitted but not shown to the device. */
  corked = false;
  /** While set, the used ring is not looked at, because a test has filled the avail ring by hand. */
  ignored = false;

  constructor(
    ram: GuestRam,
    readonly index: number,
    readonly notify: Notify,
    options: FakeQueueOptions,
  ) {
    this.ring = makeRingDriver(ram, { packed: false, ...options });
    this.ring.wantCalls(notify === 'call');
  }

  /** The ring of a split queue. Throws when it is packed. */
  get driver(): FakeDriver {
    if (!(this.ring instanceof FakeDriver)) throw new Error(`queue ${this.index} is packed`);
    return this.ring;
  }

  /** The ring of a packed queue. Throws when it is split. */
  get packedDriver(): FakePackedDriver {
    if (!(this.ring instanceof FakePackedDriver)) throw new Error(`queue ${this.index} is split`);
    return this.ring;
  }

  /** An empty ring in the same place, from its beginning, as after a device reset; its layout may change. */
  reset(options: { packed?: boolean; eventIdx?: boolean } = {}): void {
    const { ram, size, eventIdx, descGpa, availGpa, usedGpa } = this.ring;
    const packed = this.ring instanceof FakePackedDriver;
    if ((options.packed ?? packed) === packed) {
      this.ring = makeRingDriver(ram, { packed, size, eventIdx, descGpa, availGpa, usedGpa, ...options });
    } else {
      for (const gpa of [descGpa, availGpa, usedGpa]) ram.free(gpa);
      this.ring = makeRingDriver(ram, { size, eventIdx, packed: !packed, ...options });
    }
    this.ring.wantCalls(this.notify === 'call');
  }

  /** Shows submitted chains to the device and kicks if it wants that. */
  publish(): void {
    if (!this.corked && this.ring.publish()) this.kick();
  }

  kick(): void {
    check('signal', native.signal(this.kickFd));
    this.kicks++;
  }

  /** Hands every used chain to `take`; true when there was one. Throws DeviceFault. */
  reap(take: (head: number, lengthBytes: number) => void): boolean {
    const { ring } = this;
    if (this.ignored) return false;
    if (this.notify === 'call') {
      if (native.consume(this.callFd) < 0) return false;
      this.calls++;
    }
    let any = false;
    do {
      for (let used = ring.popUsed(); used; used = ring.popUsed()) {
        any = true;
        take(used.head, used.lengthBytes);
      }
      ring.wantCalls(this.notify === 'call');
    } while (ring.hasUsed);
    return any;
  }

  /** Whether the back-end has signalled the err eventfd since the last look. */
  sawError(): boolean {
    return native.consume(this.errFd) > 0;
  }

  /** Calls that came since the last look. */
  drainCalls(): number {
    return Math.max(0, native.consume(this.callFd));
  }

  close(): void {
    for (const fd of [this.kickFd, this.callFd, this.errFd]) closeSync(fd);
  }
}
