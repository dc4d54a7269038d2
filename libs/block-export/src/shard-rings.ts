import type { RingFds, RingStart } from '@cairn/vhost-user';
import type { VirtqueueError } from '@cairn/virtio';
import { BlkRing, type RingFeatures } from './blk-ring.js';
import type { DeviceShard } from './device-shard.js';
import { nameIndex } from './failure-names.js';

/** The rings of one volume that run on one reactor thread. */
export class ShardRings {
  private readonly rings = new Map<number, BlkRing>();

  constructor(private readonly shard: DeviceShard) {}

  start(start: RingStart, features: RingFeatures): void {
    const { shard } = this;
    const ring = new BlkRing(shard, start, features, shard.host.views);
    this.rings.set(start.index, ring);
    if (ring.broken) this.breakDown(ring, ring.broken);
    else shard.host.ringStarted(ring);
  }

  /** `done` gets the next avail index when nothing of the ring is in flight. */
  stop(index: number, done: (nextAvail: number) => void): void {
    const ring = this.rings.get(index)!;
    ring.waiters.push(done);
    this.shard.limiter.cancel(ring.turn);
    if (!ring.resuming) return this.drain(ring);
    // No avail index says what an earlier process had in flight, so that is answered first, whatever the rate limit.
    ring.throttled = false;
    return this.shard.host.activate(ring);
  }

  setFds(index: number, fds: RingFds): void {
    const ring = this.rings.get(index)!;
    const kickChanged = ring.fds.kickFd !== fds.kickFd;
    ring.fds = fds;
    if (kickChanged) this.shard.host.kickChanged(ring);
    // A call that went to the descriptor before may not have been heard.
    else ring.signal('callFd');
  }

  /** Has every ring looked at from the next round on. */
  activate(): void {
    for (const ring of this.rings.values()) this.shard.host.activate(ring);
  }

  /** The driver broke a ring: it is not looked at again until it is set up anew (virtio 1.2 §2.1.2). */
  breakDown(ring: BlkRing, error: VirtqueueError): void {
    const { shard } = this;
    ring.broken = error;
    shard.limiter.cancel(ring.turn);
    shard.metrics.countName(nameIndex(error.fault));
    shard.host.ringBroken(ring);
    ring.signal('errFd');
  }

  /** Takes nothing more of a ring that is asked to stop; it ends with its last request in flight. */
  drain(ring: BlkRing): void {
    ring.stopping = true;
    this.endIfDrained(ring);
  }

  /** Ends a ring that is stopping, once nothing of it is in flight. */
  endIfDrained(ring: BlkRing): void {
    if (ring.inFlight > 0) return;
    this.rings.delete(ring.index);
    this.shard.host.ringStopped(ring);
    const { nextAvail } = ring;
    ring.release();
    for (const done of ring.waiters.splice(0)) done(nextAvail);
  }
}
