import { native } from '@cairn/native';
import type { VolumeChain } from '@cairn/storage';
import type { BlkBackend } from './blk-backend.js';
import { type ChainOptions, closeVolumeFile, openChain } from './layer-files.js';
import type { VolumeFile } from './volume-file.js';

/** How long the rings took no request, and how much of that went into making the head durable. */
export interface StandStill {
  frozenMicros: number;
  flushMicros: number;
}

/** Called once a step is done, or with the reason why it was not. */
export type StepDone = (error?: string) => void;

/**
 * The open files of an export, and how they are exchanged for others while it serves:
 *
 *   prepare   opens the next chain, makes durable what can be without a pause
 *   freeze    takes no request, waits for those in flight, makes the head durable if it is another one's turn
 *   thaw      goes over to the next chain or stays, and serves again
 */
export class ServedFiles {
  private next: VolumeFile | undefined;
  private freezing: StepDone | undefined;
  private frozenAt = 0;
  private flushMicros = 0;

  constructor(
    private file: VolumeFile,
    private readonly backend: BlkBackend,
    private readonly options: ChainOptions,
  ) {}

  get current(): VolumeFile {
    return this.file;
  }

  /** Throws an Error when a layer cannot be opened. */
  prepare(chain: VolumeChain, done: StepDone): void {
    this.dropNext();
    const next = openChain(chain, this.options, this.file);
    // A volume never shrinks: who asks may not know of its latest growth.
    this.next = { ...next, sizeBytes: Math.max(next.sizeBytes, this.backend.sizeBytes) };
    this.backend.gather(() => this.flush(done));
  }

  freeze(done: StepDone): void {
    this.freezing = done;
    this.frozenAt = native.clockMicros();
    this.backend.freeze(() => {
      const drainedAt = native.clockMicros();
      this.flush((error) => {
        // It may have been given up meanwhile.
        if (this.freezing !== done) return;
        this.freezing = undefined;
        this.flushMicros = (native.clockMicros() - drainedAt) | 0;
        done(error);
      });
    });
  }

  thaw({ goOver }: { goOver: boolean }): StandStill {
    const { freezing, next } = this;
    this.freezing = undefined;
    if (goOver && next && !freezing) {
      const before = this.file;
      this.file = next;
      this.next = undefined;
      this.backend.goOver(next);
      closeVolumeFile(before, next);
    }
    this.dropNext();
    this.backend.thaw();
    freezing?.('it was given up');
    return { frozenMicros: (native.clockMicros() - this.frozenAt) | 0, flushMicros: this.flushMicros };
  }

  /** Closes everything; nothing is served any more. */
  close(): void {
    this.dropNext();
    closeVolumeFile(this.file);
  }

  private flush(done: StepDone): void {
    if (this.options.readOnly || this.next?.fd === this.file.fd) return done();
    return this.backend.flush((ok) => done(ok ? undefined : 'what was written could not be made durable'));
  }

  private dropNext(): void {
    if (this.next) closeVolumeFile(this.next, this.file);
    this.next = undefined;
  }
}
