import { closeSync, readlinkSync } from 'node:fs';
import { native } from '@cairn/native';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
import { VhostUserError } from './vhost-user-error.js';

/** Ring addresses in the front-end's address space. */
export interface UserAddresses {
  descriptors: number;
  avail: number;
  used: number;
}

/** The descriptors of a ring: the driver's kick, our call, our error; undefined where the front-end gave none. */
export interface RingFds {
  kickFd: number | undefined;
  callFd: number | undefined;
  errFd: number | undefined;
}

/** What the front-end has said of one ring. Owns its three descriptors. */
export class Vring {
  size = 0;
  addresses: UserAddresses | undefined;
  /** Under which guest physical address writes to the used ring are logged; undefined = they are not. */
  usedLogGpa: number | undefined;
  /** Avail index to start from: SET_VRING_BASE, then where the ring stopped. */
  nextAvail = 0;
  enabled = false;
  /** Has SET_VRING_KICK come since the ring was stopped? */
  started = false;
  /** Has it run for this front-end and stopped? Then a new base is where it goes on, whatever its record says. */
  halted = false;
  /** Is the back-end processing it? */
  running = false;
  fds: RingFds = { kickFd: undefined, callFd: undefined, errFd: undefined };

  constructor(readonly index: number) {}

  get ready(): boolean {
    return this.started && this.enabled && this.size > 0 && this.addresses !== undefined;
  }

  /**
   * Replaces one descriptor and returns the one before. The caller closes that when no thread can use it any more:
   * its number may be another file's the moment after.
   */
  replaceFd(which: keyof RingFds, fd: number | undefined): number | undefined {
    const before = this.fds[which];
    this.fds = { ...this.fds, [which]: fd };
    return before;
  }

  /** Closes all three; the ring must not be running. */
  closeFds(): void {
    for (const fd of Object.values(this.fds) as (number | undefined)[]) if (fd !== undefined) closeSync(fd);
    this.fds = { kickFd: undefined, callFd: undefined, errFd: undefined };
  }

  /** All that is known of the ring, for a successor. */
  state(list: FdList): HandedValue {
    const { size, addresses, usedLogGpa, nextAvail, enabled, started, halted, fds } = this;
    return {
      size,
      nextAvail,
      enabled,
      started,
      halted,
      ...(addresses && { addresses: { ...addresses } }),
      ...(usedLogGpa === undefined ? {} : { usedLogGpa }),
      ...list.entry('kickFd', fds.kickFd),
      ...list.entry('callFd', fds.callFd),
      ...list.entry('errFd', fds.errFd),
    };
  }

  /** Becomes what a predecessor says of it. Throws HandedStateError or VhostUserError; `closeFds` is then still due. */
  adopt(reader: HandedReader, layout: { packed: boolean }): void {
    this.size = reader.integer('size');
    if (this.size > 0) checkRingSize(this.size, layout);
    this.nextAvail = reader.integer('nextAvail', { max: 0xffffffff });
    this.enabled = reader.flag('enabled');
    this.started = reader.flag('started');
    this.halted = reader.flag('halted');
    this.usedLogGpa = reader.optional('usedLogGpa', (name) => reader.integer(name));
    this.addresses = reader.optional('addresses', (name) => {
      const inner = reader.object(name);
      const addresses = {
        descriptors: inner.integer('descriptors'),
        avail: inner.integer('avail'),
        used: inner.integer('used'),
      };
      inner.end();
      return addresses;
    });
    for (const which of ['kickFd', 'callFd', 'errFd'] as const) {
      const fd = reader.optional(which, (name) => reader.fd(name));
      this.replaceFd(which, fd);
      if (fd !== undefined) acceptEventfd(fd);
    }
    reader.end();
  }
}

/**
 * Accepts only an eventfd, and makes it non-blocking, so that neither a file that is always readable nor a full
 * counter can hold up the thread that serves other guests.
 */
export const acceptEventfd = (fd: number): void => {
  if (readlinkSync(`/proc/self/fd/${fd}`) !== 'anon_inode:[eventfd]') {
    throw new VhostUserError('descriptor-type-invalid', { wanted: 'eventfd' });
  }
  native.setNonblocking(fd, 1);
};

/** Throws VhostUserError for a size that no ring has. */
export const checkRingSize = (size: number, { packed }: { packed: boolean }): void => {
  // virtio 1.2 §2.7 and §2.8: at most 32768; a power of two unless the ring is packed.
  if (size < 1 || size > 32768 || (!packed && (size & (size - 1)) !== 0)) {
    throw new VhostUserError('vring-size-invalid', { size });
  }
};
