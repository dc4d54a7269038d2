import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { randomFillSync } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Medium } from './back-ends.js';
import type { MediumName } from './cells.js';

const CHUNK_BYTES = 4 * 1024 * 1024;

/** The files that are measured: made when they are first asked for, written in full, and removed at the end. */
export class Volumes {
  /** Where sockets may be. */
  readonly sockets = mkdtempSync(join(tmpdir(), 'cairn-bench-'));
  private readonly directories: string[] = [this.sockets];
  private readonly made = new Map<MediumName, Medium>();

  /** `directory` is on the disk that is measured. */
  constructor(
    private readonly directory: string,
    private readonly sizeBytes: number,
  ) {}

  /** What to serve for a medium. A file is written in full, so that it is warm and has no holes. */
  get(name: MediumName): Medium {
    const known = this.made.get(name);
    if (known) return known;
    const medium = this.make(name);
    this.made.set(name, medium);
    return medium;
  }

  /** The same, but with a file that nobody else has. */
  make(name: MediumName): Medium {
    const { sizeBytes } = this;
    if (name === 'null') return { sizeBytes };
    const file = this.makeFile(name === 'tmpfs' ? '/dev/shm' : this.directory);
    return { file, direct: name === 'direct', sizeBytes };
  }

  /** A new, empty directory on the disk that is measured. */
  scratch(parent = this.directory): string {
    const directory = mkdtempSync(join(parent, 'cairn-bench-'));
    this.directories.push(directory);
    return directory;
  }

  remove(): void {
    for (const path of this.directories) rmSync(path, { recursive: true, force: true });
  }

  private makeFile(parent: string): string {
    const directory = this.scratch(parent);
    const file = join(directory, 'volume.img');
    const fd = openSync(file, 'wx', 0o600);
    const chunk = randomFillSync(Buffer.alloc(CHUNK_BYTES));
    for (let offset = 0; offset < this.sizeBytes; offset += CHUNK_BYTES) {
      writeSync(fd, chunk, 0, Math.min(CHUNK_BYTES, this.sizeBytes - offset));
    }
    fsyncSync(fd);
    closeSync(fd);
    return file;
  }
}
