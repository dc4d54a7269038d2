import { closeSync, readlinkSync } from 'node:fs';
import { native } from '@cairn/native';
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
