import { closeSync } from 'node:fs';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import { FakeDriver, type GuestRam } from '@cairn/virtio/testing';

/** How a queue learns of used chains: by the call eventfd alone, as a guest, or by looking, with calls suppressed. */
export type Notify = 'call' | 'poll';

/** A virtqueue with its eventfds, honest about notifications: it kicks only when asked to, and looks only when called. */
export class FakeQueue {
  driver: FakeDriver;
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
    options: { size: number; eventIdx: boolean; base?: number; region?: number },
  ) {
    this.driver = new FakeDriver(ram, options);
    this.driver.wantCalls(notify === 'call');
  }

  /** An empty ring in the same place, from index 0, as after a device reset. */
  reset(): void {
    const { ram, size, eventIdx, descGpa, availGpa, usedGpa } = this.driver;
    this.driver = new FakeDriver(ram, { size, eventIdx, descGpa, availGpa, usedGpa });
    this.driver.wantCalls(this.notify === 'call');
  }

  /** Shows submitted chains to the device and kicks if it wants that. */
  publish(): void {
    if (!this.corked && this.driver.publish()) this.kick();
  }

  kick(): void {
    check('signal', native.signal(this.kickFd));
    this.kicks++;
  }

  /** Hands every used chain to `take`; true when there was one. Throws DeviceFault. */
  reap(take: (head: number, lengthBytes: number) => void): boolean {
    const { driver } = this;
    if (this.ignored) return false;
    if (this.notify === 'call') {
      if (native.consume(this.callFd) < 0) return false;
      this.calls++;
    }
    let any = false;
    do {
      for (let used = driver.popUsed(); used; used = driver.popUsed()) {
        any = true;
        take(used.head, used.lengthBytes);
      }
      driver.wantCalls(this.notify === 'call');
    } while (driver.usedIdx !== driver.lastUsed);
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
