import { type MemoryLayout, MemoryViews } from '@cairn/vhost-user';

/** This thread's views over guest memory, shared by the rings of one front-end that run here. */
export class ViewCache {
  private readonly entries = new Map<number, { views: MemoryViews; users: number }>();

  /** Views for one more ring; `release` when that ring has stopped. */
  acquire(layout: MemoryLayout): MemoryViews {
    let entry = this.entries.get(keyOf(layout));
    if (!entry) {
      entry = { views: new MemoryViews(layout), users: 0 };
      this.entries.set(keyOf(layout), entry);
    }
    entry.users += 1;
    return entry.views;
  }

  /** With its last user gone, every view of this thread over that memory ends. */
  release(layout: MemoryLayout): void {
    const entry = this.entries.get(keyOf(layout))!;
    entry.users -= 1;
    if (entry.users > 0) return;
    this.entries.delete(keyOf(layout));
    entry.views.endAll();
  }
}

/** Where the memory's first run is in this process: no two that are mapped have that in common. */
const keyOf = ({ baseAddress, runs }: MemoryLayout): number => baseAddress + runs[0]!.gpa;
