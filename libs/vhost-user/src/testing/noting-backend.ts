import { FEATURE, FeatureSet } from '@cairn/virtio';
import { MemoryViews } from '../memory-table.js';
import type { RingStart, VhostUserBackend } from '../vhost-user-backend.js';
import type { RingFds } from '../vring.js';

/** A device that does nothing but write down what it is told; its rings drain when the test says so. */
export class NotingBackend implements VhostUserBackend {
  readonly queueCount = 2;
  readonly offeredFeatures = FeatureSet.of(
    FEATURE.VERSION_1,
    FEATURE.VHOST_USER_PROTOCOL_FEATURES,
    FEATURE.BLK_FLUSH,
    FEATURE.VHOST_LOG_ALL,
  );
  readonly log: string[] = [];
  readonly starts = new Map<number, RingStart>();
  readonly views = new Map<number, MemoryViews>();
  readonly fds = new Map<number, RingFds>();
  /** While set, `setRingFds` waits for `endFds`. */
  holdFds = false;
  /** While set, `stopRing` waits for `drain`. */
  busy = false;
  /** While set, `whenAlone` waits for `endOthers`: requests of a front-end that is gone are in flight. */
  othersInFlight = false;
  nextAvail = 7;
  acceptConfig: boolean | undefined = true;
  private readonly draining: { index: number; done: (nextAvail: number) => void }[] = [];
  private fdsDone: (() => void) | undefined;
  private othersEnded: (() => void) | undefined;
  private configDone: ((accepted: boolean) => void) | undefined;

  setFeatures(features: FeatureSet): void {
    this.log.push(`features ${features.high.toString(16)}:${features.low.toString(16)}`);
  }

  startRing(start: RingStart): void {
    this.log.push(`start ${start.index}`);
    this.starts.set(start.index, start);
    this.fds.set(start.index, start.fds);
    this.views.set(start.index, new MemoryViews(start.layout));
  }

  /** Guest memory as the ring sees it. */
  memoryOf(index: number): MemoryViews['memory'] {
    return this.views.get(index)!.memory;
  }

  stopRing(index: number, done: (nextAvail: number) => void): void {
    this.log.push(`stop ${index}`);
    this.draining.push({ index, done });
    if (!this.busy) this.drain();
  }

  /** The last request in flight of every stopping ring, or of one, completes. */
  drain(only?: number): void {
    const ready = this.draining.filter(({ index }) => only === undefined || index === only);
    for (const one of ready) this.draining.splice(this.draining.indexOf(one), 1);
    for (const { index, done } of ready) {
      this.log.push(`drained ${index}`);
      this.views.get(index)?.endAll();
      done(this.nextAvail);
    }
  }

  setRingFds(index: number, fds: RingFds, done: () => void): void {
    this.log.push(`descriptors ${index}`);
    this.fds.set(index, fds);
    if (this.holdFds) this.fdsDone = done;
    else done();
  }

  endFds(): void {
    this.fdsDone!();
  }

  driverState = 1;

  restoreDriverState(state: number): void {
    this.log.push(`restore ${state}`);
    this.driverState = state;
  }

  reset(): void {
    this.log.push('reset');
    this.driverState = 1;
  }

  readConfig(offset: number, size: number): Uint8Array | undefined {
    return offset + size > 60 ? undefined : new Uint8Array(size).fill(offset);
  }

  writeConfig(offset: number, data: Uint8Array, done: (accepted: boolean) => void): void {
    this.log.push(`config ${offset} ${data.join(' ')}`);
    if (this.acceptConfig === undefined) this.configDone = done;
    else done(this.acceptConfig);
  }

  whenAlone(done: () => void): void {
    if (this.othersInFlight) this.othersEnded = done;
    else done();
  }

  endOthers(): void {
    this.othersEnded!();
  }

  endConfig(accepted: boolean): void {
    this.configDone!(accepted);
  }
}
