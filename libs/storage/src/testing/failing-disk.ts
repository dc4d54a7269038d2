import { type Disk, type DiskFile, systemDisk } from '../disk.js';

/**
 * How a disk fails: `full` refuses whatever takes space, and still reads, removes and makes holes; `dead` refuses
 * everything, as for a process that was killed at that moment.
 */
export type DiskFailure = 'full' | 'dead';

/** A disk that fails on demand, after some more effects, until it is healed. */
export class FailingDisk implements Disk {
  private failure: DiskFailure | undefined;
  private left = 0;
  /** What was refused since it began to fail. */
  refused = 0;

  constructor(private readonly inner: Disk = systemDisk) {}

  failAfter(effects: number, failure: DiskFailure): void {
    this.failure = failure;
    this.left = effects;
    this.refused = 0;
  }

  heal(): void {
    this.failure = undefined;
  }

  async open(path: string, flags: 'r' | 'r+' | 'wx+'): Promise<DiskFile> {
    this.reach(flags === 'wx+' ? 'space' : 'look');
    const file = await this.inner.open(path, flags);
    const effect = (kind: Effect, work: () => Promise<void>): Promise<void> => this.run(kind, work);
    return {
      fd: file.fd,
      read: async (into, position) => {
        this.reach('look');
        return file.read(into, position);
      },
      write: (from, position) => effect('space', () => file.write(from, position)),
      truncate: (sizeBytes) => effect('space', () => file.truncate(sizeBytes)),
      punch: (position, length) => effect('change', () => file.punch(position, length)),
      copyFrom: (source, position, length) => effect('space', () => file.copyFrom(source, position, length)),
      sync: () => effect('change', () => file.sync()),
      close: () => file.close(),
    };
  }

  rename(from: string, to: string): Promise<void> {
    return this.run('change', () => this.inner.rename(from, to));
  }

  remove(path: string): Promise<void> {
    return this.run('change', () => this.inner.remove(path));
  }

  syncDirectory(path: string): Promise<void> {
    return this.run('change', () => this.inner.syncDirectory(path));
  }

  async readText(path: string): Promise<string> {
    this.reach('look');
    return this.inner.readText(path);
  }

  async list(directory: string): Promise<string[]> {
    this.reach('look');
    return this.inner.list(directory);
  }

  async stat(path: string): ReturnType<Disk['stat']> {
    this.reach('look');
    return this.inner.stat(path);
  }

  private async run(effect: Effect, work: () => Promise<void>): Promise<void> {
    this.reach(effect);
    return work();
  }

  private reach(effect: Effect): void {
    if (this.failure === undefined) return;
    if (this.left > 0) {
      if (effect !== 'look') this.left -= 1;
      return;
    }
    if (this.failure === 'full' && effect !== 'space') return;
    this.refused += 1;
    throw this.failure === 'full'
      ? Object.assign(new Error('ENOSPC: asked for by the test'), { code: 'ENOSPC' })
      : new Error('the process is dead');
  }
}

/** What an operation does: nothing, a change, or one that takes space. */
type Effect = 'look' | 'change' | 'space';
