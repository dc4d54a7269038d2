import { native } from '@cairn/native';
import { collectReply, type DirtyBitmap, placeRequest, pollUntil } from '@cairn/vhost-user/testing';
import { RING_FEATURE } from '@cairn/virtio/testing';
import type { Random } from '../support/random.js';
import { type Plan, randomFraming } from './model-request.js';
import { DirtyWatch } from './dirty-watch.js';
import type { RawGuest, RawRequest } from './raw-guest.js';
import type { RawRing } from './raw-ring.js';

const PATIENCE_MS = 20_000;

/** How the guest goes about its requests. */
export interface ModelGuestOptions {
  /** Requests in flight, at most. */
  depth: number;
  /** Looks at a ring only when it was called, as a real driver does; else at all of them all the time. */
  calls: boolean;
}

/**
 * An honest driver that knows what must come of each of its requests, and checks it.
 *
 * Requests in flight together never touch the same bytes when one of them writes, so that the outcome is certain.
 */
export class ModelGuest {
  /** Refusals that the back-end must have counted, by name. */
  readonly errors: Record<string, number> = {};
  /** Requests that were answered. */
  answered = 0;
  private readonly inFlight = new Map<RawRequest, Plan>();
  private readonly armed = new Set<RawRing>();
  private readonly watch = new DirtyWatch();

  constructor(
    readonly raw: RawGuest,
    private readonly options: ModelGuestOptions,
  ) {}

  get inFlightCount(): number {
    return this.inFlight.size;
  }

  /** Longest chain of direct descriptors that is sure to fit into a ring at some time. */
  get direct(): number {
    return Math.min(this.raw.rings[0]!.driver.size, 24);
  }

  /** Submits a request as soon as nothing is in the way. */
  async begin(plan: Plan, ring: RawRing, random: Random): Promise<void> {
    const { raw } = this;
    const framing = randomFraming(random, plan.request, {
      packed: raw.options.packed ?? false,
      indirect: raw.has(RING_FEATURE.INDIRECT_DESC),
      direct: this.direct,
    });
    await this.until('a place', () => this.inFlight.size < this.options.depth && !this.conflicts(plan));
    const pieces = placeRequest(raw.ram, { ...plan.request, framing });
    const { indirectAfter } = framing;
    const direct = indirectAfter === undefined ? pieces.length : Math.min(indirectAfter + 1, pieces.length);
    await this.roomFor(ring, direct);
    const options = indirectAfter === undefined ? {} : { indirectAfter };
    this.inFlight.set(raw.submit(ring.index, pieces, options), plan);
  }

  /** Waits until every request, or every one of a ring, is answered. */
  settle(ring?: RawRing): Promise<void> {
    return this.until('the answers', () => this.of(ring).length === 0);
  }

  /** Waits until that many descriptors of a ring are free. */
  roomFor(ring: RawRing, descriptors: number): Promise<void> {
    return this.until('free descriptors', () => ring.driver.freeDescriptors >= descriptors);
  }

  /** Takes and checks every answer that is there, whoever was called. */
  reap(): void {
    this.raw.reap();
    this.check();
  }

  /** Logs what the device writes, and checks from now on that nothing of it is missed; or ends that. */
  async useLog(log: DirtyBitmap | undefined): Promise<void> {
    this.watch.end();
    await this.raw.useLog(log);
    // What had come back before it was in force is in no log.
    this.reap();
    if (log) this.watch.begin(log, this.raw.rings);
  }

  /** Takes what is marked, as a pass of a migration does, once all that is in flight has come back. */
  async takeLog(): Promise<void> {
    await this.settle();
    // The used ring is marked right after the driver sees it; a message is heard after that.
    await this.raw.frontend.getFeatures();
    this.watch.take();
  }

  /** Has a stopped ring begin anew, empty; what the device did not take of it is forgotten. */
  forget(ring: RawRing): void {
    this.reap();
    for (const request of this.raw.abandon(ring.index)) {
      this.inFlight.delete(request);
      this.raw.release(request);
    }
    ring.reset();
  }

  /** Rings were set up again: their driver asks for calls anew. */
  restarted(): void {
    this.armed.clear();
    this.watch.restarted();
  }

  private of(ring?: RawRing): RawRequest[] {
    return [...this.inFlight.keys()].filter((request) => !ring || request.ring === ring.index);
  }

  private async until(what: string, done: () => boolean): Promise<void> {
    const look = () => {
      this.hear();
      return done() || undefined;
    };
    const callFd = this.options.calls ? () => this.raw.rings[0]!.callFd : () => undefined;
    await pollUntil(what, look, { timeoutMs: PATIENCE_MS, fd: callFd });
  }

  private hear(): void {
    for (const ring of this.raw.rings) {
      if (!this.options.calls) {
        this.raw.reap(ring.index);
      } else if (native.consume(ring.callFd) > 0 || !this.armed.has(ring)) {
        do {
          this.raw.reap(ring.index);
          ring.driver.wantCalls(true);
        } while (ring.driver.hasUsed);
        this.armed.add(ring);
      }
    }
    this.check();
  }

  private conflicts({ range, writes }: Plan): boolean {
    if (!range) return false;
    for (const other of this.inFlight.values()) {
      if (!other.range || !(writes || other.writes)) continue;
      if (range.start < other.range.end && other.range.start < range.end) return true;
    }
    return false;
  }

  private check(): void {
    for (const [request, plan] of this.inFlight) {
      const { usedBytes } = request;
      if (usedBytes === undefined) continue;
      this.inFlight.delete(request);
      this.answered += 1;
      const { type, sector, inBytes = 0, out } = plan.request;
      const what = `request of type ${type}, sector ${sector ?? 0}, ${out?.length ?? 0} bytes out, ${inBytes} in`;
      this.watch.check(request, what);
      const { status, data } = collectReply(this.raw.ram, request.pieces, { inBytes, usedBytes });
      if (status !== plan.status) throw new Error(`${what}: status ${status}, not ${plan.status}`);
      // virtio 1.2 §2.7.8.2: no more than was written, and that is the status byte.
      if (plan.error !== undefined && usedBytes !== 1) throw new Error(`${what}: ${usedBytes} bytes used`);
      if (plan.error !== undefined) this.errors[plan.error] = (this.errors[plan.error] ?? 0) + 1;
      const expected = plan.expected?.();
      if (expected) {
        if (usedBytes !== expected.length + 1) throw new Error(`${what}: ${usedBytes} bytes used`);
        if (!expected.equals(data.subarray(0, expected.length))) throw new Error(`${what}: wrong bytes`);
      }
      plan.apply?.();
    }
  }
}
