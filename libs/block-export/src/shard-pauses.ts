import type { DeviceShard } from './device-shard.js';

/** Why and for how long a shard takes no chains, and who waits for what is under way there. */
export class ShardPauses {
  /** Takes no chains now. */
  paused = false;
  private alone = false;
  private frozen: { drained: (() => void) | undefined } | undefined;
  private readonly barriers: { slots: Set<number>; done: () => void }[] = [];

  constructor(private readonly shard: DeviceShard) {}

  /** Does somebody wait for slots to be released? */
  get waiting(): boolean {
    return this.frozen !== undefined || this.barriers.length > 0;
  }

  /** A request must be alone on its volume. */
  setAlone(alone: boolean): void {
    this.alone = alone;
    this.changed();
  }

  /** Takes no chains until `thaw`; `drained` is called when nothing is in flight, unless `thaw` comes first. */
  freeze(drained: () => void): void {
    this.frozen = { drained };
    this.changed();
    this.tellIfDrained();
  }

  thaw(): void {
    this.frozen = undefined;
    this.changed();
  }

  /** Calls `done` when everything that is in flight now has completed. */
  barrier(done: () => void): void {
    const { shard } = this;
    const slots = new Set<number>();
    for (let slot = 0; slot < shard.host.slots.count; slot += 1) if (shard.owns(slot)) slots.add(slot);
    if (slots.size === 0) done();
    else this.barriers.push({ slots, done });
  }

  /** A slot was released. */
  released(slot: number): void {
    for (let index = this.barriers.length - 1; index >= 0; index -= 1) {
      const { slots, done } = this.barriers[index]!;
      slots.delete(slot);
      if (slots.size > 0) continue;
      this.barriers.splice(index, 1);
      done();
    }
    this.tellIfDrained();
  }

  private tellIfDrained(): void {
    if (!this.frozen || this.shard.held > 0) return;
    const { drained } = this.frozen;
    this.frozen.drained = undefined;
    drained?.();
  }

  private changed(): void {
    const before = this.paused;
    this.paused = this.alone || this.frozen !== undefined;
    if (before && !this.paused) this.shard.rings.activate();
  }
}
