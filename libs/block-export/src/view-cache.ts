import { type MemoryLayout, MemoryViews } from '@cairn/vhost-user';

/** This thread's views over guest memory, shared by the rings of one front-end that run here. */
export class ViewCache {
  private readonly entries = new Map<number, { views: MemoryViews; users: number }>();

  /** Views for one more ring; `release` when that ring has stopped. */
  acquire(layout: MemoryLayout): MemoryViews {
    let entry = this.entries.get(layout.baseAddress);
    if (!entry) {
      entry = { views: new MemoryViews(layout), users: 0 };
      this.entries.set(layout.baseAddress, entry);
    }
    entry.users += 1;
    return entry.views;
  }

  /** With its last user gone, every view of this thread over that memory ends. */
  release(layout: MemoryLayout): void {
    const entry = this.entries.get(layout.baseAddress)!;
    entry.users -= 1;
    if (entry.users > 0) return;
    this.entries.delete(layout.baseAddress);
    entry.views.endAll();
  }
}
