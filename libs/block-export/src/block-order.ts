import { BLOCK_BYTES } from '@cairn/storage';

/** A change of several steps, or one that waits for such a change, in blocks of the volume. */
interface Entry {
  slot: number;
  start: number;
  end: number;
  running: boolean;
}

/**
 * Lets a change that takes several steps (copy-up, discard) be alone on its blocks: it waits for what is under way there,
 * and what comes later waits for it, in the order in which it came. Other blocks, and reads, do not notice.
 *
 * A write of one step need not be entered while it meets none that is.
 */
export class BlockOrder {
  private readonly entries: Entry[] = [];

  /**
   * `isWritten`: is a write that was not entered under way there? `begin` is called, perhaps at once, when an entered
   * change may begin.
   */
  constructor(
    private readonly isWritten: (start: number, end: number) => boolean,
    private readonly begin: (slot: number) => void,
  ) {}

  /** Is anything entered? When not, nothing needs to be asked or told. */
  get busy(): boolean {
    return this.entries.length > 0;
  }

  meets(start: number, end: number): boolean {
    return this.entries.some((entry) => entry.start < end && start < entry.end);
  }

  enter(slot: number, start: number, end: number): void {
    this.entries.push({ slot, start, end, running: false });
    this.beginWithin(start, end);
  }

  /** A request has ended, an entered one or a write of `start` to `end`: those that waited for it begin. */
  leave(slot: number, start: number, end: number): void {
    const index = this.entries.findIndex((entry) => entry.slot === slot);
    const left = index < 0 ? { start, end } : this.entries.splice(index, 1)[0]!;
    this.beginWithin(left.start, left.end);
  }

  private beginWithin(start: number, end: number): void {
    const ready = this.entries.filter(
      (entry, index) =>
        !entry.running && entry.start < end && start < entry.end && this.mayBegin(entry, index),
    );
    // All of them are marked first, as `begin` may end a request and come back here.
    for (const entry of ready) entry.running = true;
    for (const { slot } of ready) this.begin(slot);
  }

  private mayBegin({ start, end }: Entry, index: number): boolean {
    for (let earlier = 0; earlier < index; earlier += 1) {
      const entry = this.entries[earlier]!;
      if (entry.start < end && start < entry.end) return false;
    }
    return !this.isWritten(start, end);
  }
}

export const blockStart = (offset: number): number => offset - (offset % BLOCK_BYTES);
export const blockEnd = (offset: number): number => Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES;
