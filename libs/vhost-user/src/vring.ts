import { closeSync, readlinkSync } from 'node:fs';
import { native } from '@cairn/native';
import { VhostUserError } from './vhost-user-error.js';

/** Ring addresses in the front-end's address space. */
interface UserAddresses {
  descriptors: number;
  avail: number;
  used: number;
}

/** What the front-end has said of one ring. Owns its three descriptors. */
export class Vring {
  size = 0;
  addresses: UserAddresses | undefined;
  /** Avail index to start from: SET_VRING_BASE, then where the ring stopped. */
  nextAvail = 0;
  enabled = false;
  /** Has SET_VRING_KICK come since the ring was stopped? */
  started = false;
  /** Is the back-end processing it? */
  running = false;
  kickFd: number | undefined;
  callFd: number | undefined;
  errFd: number | undefined;

  constructor(readonly index: number) {}

  get ready(): boolean {
    return this.started && this.enabled && this.size > 0 && this.addresses !== undefined;
  }

  /** Replaces one descriptor and closes the one before. */
  replaceFd(which: 'kickFd' | 'callFd' | 'errFd', fd: number | undefined): void {
    const before = this[which];
    this[which] = fd;
    if (before !== undefined) closeSync(before);
  }

  closeFds(): void {
    this.replaceFd('kickFd', undefined);
    this.replaceFd('callFd', undefined);
    this.replaceFd('errFd', undefined);
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
