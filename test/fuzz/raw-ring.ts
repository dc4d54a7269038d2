import { closeSync } from 'node:fs';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import { FakeDriver, FakePackedDriver, type GuestRam } from '@cairn/virtio/testing';

/** One ring: its driver and its three eventfds. */
export class RawRing {
  driver!: FakeDriver | FakePackedDriver;
  readonly kickFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
  readonly callFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
  readonly errFd = check('eventfd', native.eventfd(EFD_NONBLOCK));

  constructor(
    readonly index: number,
    private readonly ram: GuestRam,
    private readonly options: { size: number; eventIdx: boolean; packed: boolean; region?: number },
  ) {
    this.reset();
  }

  get split(): FakeDriver {
    if (this.driver instanceof FakeDriver) return this.driver;
    throw new Error('the ring is packed');
  }

  get packed(): FakePackedDriver {
    if (this.driver instanceof FakePackedDriver) return this.driver;
    throw new Error('the ring is split');
  }

  /** SET_VRING_BASE that continues where the used ring stands. */
  get base(): number {
    if (this.driver instanceof FakeDriver) return this.driver.lastUsed;
    const { slot, wrap } = this.driver.nextUsed;
    const word = slot | (wrap ? 0x8000 : 0);
    return word + word * 0x1_0000;
  }

  /** An empty ring in the same place. */
  reset(): void {
    const { size, eventIdx, packed, region } = this.options;
    const before = this.driver as FakeDriver | FakePackedDriver | undefined;
    const place = before && {
      descGpa: before.descGpa,
      availGpa: before.availGpa,
      usedGpa: before.usedGpa,
    };
    const options = { size, eventIdx, ...(region === undefined ? {} : { region }), ...place };
    this.driver = packed ? new FakePackedDriver(this.ram, options) : new FakeDriver(this.ram, options);
    this.driver.wantCalls(false);
  }

  kick(): void {
    check('signal', native.signal(this.kickFd));
  }

  publish(): void {
    if (this.driver.publish()) this.kick();
  }

  /** Whether the back-end has signalled the err eventfd since the last look. */
  sawError(): boolean {
    return native.consume(this.errFd) > 0;
  }

  close(): void {
    for (const fd of [this.kickFd, this.callFd, this.errFd]) closeSync(fd);
  }
}
