import type { RingFds, RingStart, VhostUserBackend } from '@cairn/vhost-user';
import { FeatureSet } from '@cairn/virtio';

// A guest that is migrated has two front-ends for a while: the source, whose rings run, and the destination, which
// connects early and starts its rings when the source has stopped. Both are heard; the rings of one run at a time:
//
//   nobody's ──first ring starts──▶ one front-end's ──its last ring has stopped, nothing in flight──▶ nobody's
//
// A ring that may not run yet waits here, which its front-end does not notice; it starts when the turn comes. A
// front-end that lost its connection and came back finds its own rings still draining: what it asks of them then waits
// for the turn, because the answer depends on what is in flight.

/** Decides which of a volume's front-ends may run its rings. */
export class RingTurn {
  private readonly members: TurnMember[] = [];
  private holder: TurnMember | undefined;
  /** What waits until the holder has let go, or goes on after all. */
  private readonly deferred: (() => void)[] = [];

  constructor(readonly device: VhostUserBackend) {}

  /** One more front-end; the first finds the device as it was made, later ones as it is. `leave` when it has gone. */
  join(): TurnMember {
    if (this.members.length === 0) this.device.reset();
    const member = new TurnMember(this);
    this.members.push(member);
    return member;
  }

  /** Forgets a front-end, no ring of which runs any more. */
  leave(member: TurnMember): void {
    this.members.splice(this.members.indexOf(member), 1);
    this.pass(member);
  }

  /** Why rings that their front-end has started do not run; undefined when all of them do. */
  get waiting(): string | undefined {
    const rings = this.members.reduce((sum, member) => sum + member.waitingRings, 0);
    if (rings === 0) return undefined;
    return `${rings} ${rings === 1 ? 'ring waits' : 'rings wait'} until the other front-end has stopped its own`;
  }

  isHolder(member: TurnMember): boolean {
    return this.holder === member;
  }

  /** Is it this front-end's turn, or may it be? */
  mayDrive(member: TurnMember): boolean {
    return this.holder === undefined || this.holder === member;
  }

  /** Is the turn about to pass on? */
  get passing(): boolean {
    return this.holder?.ending === true;
  }

  /** Calls `action` when the turn has passed on, or does not pass on any more. */
  whenPassed(action: () => void): void {
    this.deferred.push(action);
  }

  /** Gives the turn to a front-end that starts a ring; false when another one has it. */
  take(member: TurnMember): boolean {
    if (this.holder === undefined) {
      this.holder = member;
      this.device.setFeatures(member.features);
    }
    return this.holder === member;
  }

  /** A front-end has no ring any more that runs or is about to go on: if it was its turn, it is the next one's. */
  pass(member: TurnMember): void {
    if (this.holder !== member) return;
    this.holder = undefined;
    this.members.find(({ waitingRings }) => waitingRings > 0)?.startWaiting();
    this.settle();
  }

  /** Whatever waited for the turn asks again. */
  settle(): void {
    for (const action of this.deferred.splice(0)) action();
  }
}

/** The device as one of its front-ends sees it. */
export class TurnMember implements VhostUserBackend {
  features = FeatureSet.of();
  /** Rings that run, or stop only for a change. */
  private readonly held = new Set<number>();
  /** Those of them that stop for good. */
  private readonly stopping = new Set<number>();
  private readonly pending = new Map<number, RingStart>();

  constructor(private readonly turn: RingTurn) {}

  get queueCount(): number {
    return this.turn.device.queueCount;
  }

  get offeredFeatures(): FeatureSet {
    return this.turn.device.offeredFeatures;
  }

  get waitingRings(): number {
    return this.pending.size;
  }

  /** Does every ring that it holds stop for good? */
  get ending(): boolean {
    return this.held.size > 0 && this.held.size === this.stopping.size;
  }

  setFeatures(features: FeatureSet): void {
    this.features = features;
    if (this.turn.mayDrive(this)) this.turn.device.setFeatures(features);
  }

  startRing(start: RingStart): void {
    this.startOrWait(start);
    // It goes on after all: nobody need wait for it to pass the turn on.
    if (this.held.has(start.index)) this.turn.settle();
  }

  /** Starts the rings that waited. */
  startWaiting(): void {
    const starts = [...this.pending.values()];
    this.pending.clear();
    for (const start of starts) this.startOrWait(start);
  }

  private startOrWait(start: RingStart): void {
    if (!this.turn.take(this)) {
      this.pending.set(start.index, start);
      return;
    }
    this.held.add(start.index);
    this.turn.device.startRing(start);
  }

  stopRing(index: number, done: (nextAvail: number) => void, options: { resumes: boolean }): void {
    const waiting = this.pending.get(index);
    if (waiting) {
      if (!options.resumes && this.turn.passing)
        return this.turn.whenPassed(() => this.stopRing(index, done, options));
      this.pending.delete(index);
      return done(waiting.nextAvail);
    }
    if (!options.resumes) this.stopping.add(index);
    return this.turn.device.stopRing(
      index,
      (nextAvail) => {
        // Before `done`, which may start the ring again.
        if (!options.resumes) {
          this.held.delete(index);
          this.stopping.delete(index);
        }
        done(nextAvail);
        if (!options.resumes && this.held.size === 0) this.turn.pass(this);
      },
      options,
    );
  }

  setRingFds(index: number, fds: RingFds, done: () => void): void {
    const waiting = this.pending.get(index);
    if (!waiting) return this.turn.device.setRingFds(index, fds, done);
    this.pending.set(index, { ...waiting, fds });
    return done();
  }

  readConfig(offset: number, size: number): Uint8Array | undefined {
    return this.turn.device.readConfig(offset, size);
  }

  /** While another front-end's rings run, the configuration is that one's driver's to change. */
  writeConfig(offset: number, data: Uint8Array, done: (accepted: boolean) => void): void {
    if (!this.turn.mayDrive(this)) {
      if (!this.turn.passing) return done(false);
      return this.turn.whenPassed(() => this.writeConfig(offset, data, done));
    }
    return this.turn.device.writeConfig(offset, data, done);
  }

  whenAlone(done: () => void): void {
    if (this.turn.isHolder(this) || !this.turn.passing) return done();
    return this.turn.whenPassed(() => this.whenAlone(done));
  }

  get driverState(): number {
    return this.turn.device.driverState;
  }

  restoreDriverState(state: number): void {
    if (this.turn.mayDrive(this)) this.turn.device.restoreDriverState(state);
  }

  reset(): void {
    this.features = FeatureSet.of();
    if (this.turn.mayDrive(this)) this.turn.device.reset();
  }
}
