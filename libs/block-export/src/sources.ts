import { IO_URING } from '@cairn/native';
import type { IoUring } from './io-uring.js';

/** High word of user_data for an event of a source; the low word is its id. */
export const SOURCE_EVENT = 2;

const POLLIN = 1;
const POLLRDHUP = 0x2000;
const U31 = 0x7fffffff;

/** A descriptor that is watched; `onReady` is told each time something happened on it. */
interface Source {
  fd: number;
  onReady: () => void;
}

/** Descriptors that a ring watches for its thread; they stay whose they are. */
export class Sources {
  private readonly sources = new Map<number, Source>();
  private last = 0;

  constructor(private readonly uring: IoUring) {}

  /** Watches a descriptor until `unwatch`; what is there to be read already counts as an event. */
  watch(fd: number, onReady: () => void): number {
    this.last = (this.last + 1) & U31;
    this.sources.set(this.last, { fd, onReady });
    this.arm(this.last, fd);
    return this.last;
  }

  unwatch(id: number): void {
    if (!this.sources.delete(id)) return;
    // Not POLL_REMOVE: that fails while an event of the poll is on its way, and the poll would keep the file open.
    this.uring.prepare(IO_URING.op.ASYNC_CANCEL, -1, 0, 0, id, SOURCE_EVENT, 0, 0, 0, 0);
  }

  /** A completion with SOURCE_EVENT; `flags` are its flags. */
  ready(id: number, flags: number): void {
    const source = this.sources.get(id);
    if (!source) return;
    if ((flags & IO_URING.cqe.MORE) === 0) this.arm(id, source.fd);
    source.onReady();
  }

  private arm(id: number, fd: number): void {
    const { op, poll } = IO_URING;
    const events = POLLIN | POLLRDHUP;
    this.uring.prepare(op.POLL_ADD, fd, 0, 0, 0, 0, poll.ADD_MULTI, events, id, SOURCE_EVENT);
  }
}
