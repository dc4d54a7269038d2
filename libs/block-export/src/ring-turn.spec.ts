import type { RingFds, RingStart, VhostUserBackend } from '@cairn/vhost-user';
import { FEATURE, FeatureSet } from '@cairn/virtio';
import { beforeEach, describe, expect, it } from 'vitest';
import { RingTurn, type TurnMember } from './ring-turn.js';

/** A device that writes down what it is told; its rings drain when the test says so. */
class NotingDevice implements VhostUserBackend {
  readonly queueCount = 2;
  readonly offeredFeatures = FeatureSet.of(FEATURE.VERSION_1, FEATURE.RING_PACKED);
  readonly log: string[] = [];
  readonly fds = new Map<number, RingFds>();
  private readonly draining: (() => void)[] = [];

  setFeatures(features: FeatureSet): void {
    this.log.push(features.has(FEATURE.RING_PACKED) ? 'packed' : 'split');
  }

  startRing({ index, nextAvail, fds }: RingStart): void {
    this.log.push(`start ${index} at ${nextAvail}`);
    this.fds.set(index, fds);
  }

  stopRing(index: number, done: (nextAvail: number) => void): void {
    if (!this.fds.delete(index)) throw new Error(`ring ${index} does not run`);
    this.draining.push(() => {
      this.log.push(`stopped ${index}`);
      done(100 + index);
    });
  }

  drain(): void {
    for (const one of this.draining.splice(0)) one();
  }

  setRingFds(index: number, fds: RingFds, done: () => void): void {
    this.fds.set(index, fds);
    done();
  }

  readConfig(): Uint8Array {
    return new Uint8Array(1);
  }

  writeConfig(_: number, __: Uint8Array, done: (accepted: boolean) => void): void {
    this.log.push('config');
    done(true);
  }

  whenAlone(done: () => void): void {
    done();
  }

  driverState = 1;

  restoreDriverState(state: number): void {
    this.log.push(`restore ${state}`);
  }

  reset(): void {
    this.log.push('reset');
  }
}

const NO_FDS: RingFds = { kickFd: undefined, callFd: undefined, errFd: undefined };
const ring = (index: number, nextAvail = 0): RingStart => ({
  index,
  nextAvail,
  size: 128,
  addresses: { descriptors: 0, avail: 0, used: 0 },
  layout: { baseAddress: 0, runs: [] },
  fds: NO_FDS,
});
const FOR_GOOD = { resumes: false };
const nothing = (): void => undefined;

describe('a turn of rings', () => {
  let device: NotingDevice;
  let turn: RingTurn;
  let source: TurnMember;
  let destination: TurnMember;

  beforeEach(() => {
    device = new NotingDevice();
    turn = new RingTurn(device);
    source = turn.join();
    source.setFeatures(FeatureSet.of(FEATURE.RING_PACKED));
    source.startRing(ring(0));
    source.startRing(ring(1));
    destination = turn.join();
    device.log.splice(0);
  });

  it('shows the device as it was made to the first front-end, as it is to the second', () => {
    expect(device.log).toEqual([]);
    turn.leave(destination);
    turn.leave(source);
    turn.join();
    expect(device.log).toEqual(['reset']);
  });

  it('starts rings that wait when the last one of the other front-end has stopped', () => {
    destination.setFeatures(FeatureSet.of());
    destination.startRing(ring(0, 7));
    destination.startRing(ring(1, 9));
    expect(turn.waiting).toBe('2 rings wait until the other front-end has stopped its own');
    source.stopRing(0, nothing, FOR_GOOD);
    device.drain();
    source.stopRing(1, nothing, FOR_GOOD);
    expect(device.log).toEqual(['stopped 0']);
    device.drain();
    expect(device.log).toEqual(['stopped 0', 'stopped 1', 'split', 'start 0 at 7', 'start 1 at 9']);
    expect(turn.waiting).toBeUndefined();
  });

  it('does not come while rings stop for a change and go on', () => {
    destination.startRing(ring(0));
    for (const index of [0, 1])
      source.stopRing(index, (nextAvail) => source.startRing(ring(index, nextAvail)), { resumes: true });
    device.drain();
    expect(device.log).toEqual(['stopped 0', 'start 0 at 100', 'stopped 1', 'start 1 at 101']);
    expect(turn.waiting).toBe('1 ring waits until the other front-end has stopped its own');
  });

  it('comes back when the destination gives up', () => {
    for (const index of [0, 1]) source.stopRing(index, nothing, FOR_GOOD);
    device.drain();
    destination.startRing(ring(0, 100));
    source.startRing(ring(0, 100));
    turn.leave(destination);
    expect(device.log.slice(-2)).toEqual(['packed', 'start 0 at 100']);
  });

  it('passes on when its front-end goes without a word', () => {
    destination.startRing(ring(1));
    turn.leave(source);
    expect(device.log.at(-1)).toBe('start 1 at 0');
  });

  it('stays with whoever has it when an answer makes its former front-end go', () => {
    destination.startRing(ring(0));
    source.stopRing(0, nothing, FOR_GOOD);
    source.stopRing(1, () => turn.leave(source), FOR_GOOD);
    device.drain();
    const late = turn.join();
    late.startRing(ring(0));
    expect(turn.waiting).toBe('1 ring waits until the other front-end has stopped its own');
  });

  it('lets a waiting ring be stopped, and its descriptors be changed', () => {
    const stops: number[] = [];
    destination.startRing(ring(0, 7));
    destination.startRing(ring(1, 8));
    destination.setRingFds(1, { ...NO_FDS, callFd: 5 }, nothing);
    destination.stopRing(0, (nextAvail) => stops.push(nextAvail), FOR_GOOD);
    expect(stops).toEqual([7]);
    turn.leave(source);
    expect(device.log.slice(-1)).toEqual(['start 1 at 8']);
    expect(device.fds.get(1)!.callFd).toBe(5);
  });

  it('keeps what a front-end asks that came back until its former rings have drained', () => {
    const answers: string[] = [];
    for (const index of [0, 1]) destination.startRing(ring(index, 7));
    for (const index of [0, 1]) source.stopRing(index, nothing, FOR_GOOD);
    for (const index of [0, 1])
      destination.stopRing(index, (nextAvail) => answers.push(`stopped at ${nextAvail}`), FOR_GOOD);
    destination.writeConfig(32, Uint8Array.of(0), (accepted) => answers.push(`accepted: ${accepted}`));
    expect(answers).toEqual([]);
    device.drain();
    expect(answers).toEqual(['accepted: true']);
    device.drain();
    expect(answers).toEqual(['accepted: true', 'stopped at 100', 'stopped at 101']);
    expect(device.log.slice(2)).toEqual([
      'split',
      'start 0 at 7',
      'start 1 at 7',
      'config',
      'stopped 0',
      'stopped 1',
    ]);
  });

  it('tells a front-end that came back when nothing of its former rings is in flight any more', () => {
    const alone: string[] = [];
    destination.whenAlone(() => alone.push('nobody is going'));
    for (const index of [0, 1]) source.stopRing(index, nothing, FOR_GOOD);
    destination.whenAlone(() => alone.push('gone'));
    source.whenAlone(() => alone.push('itself'));
    expect(alone).toEqual(['nobody is going', 'itself']);
    device.drain();
    expect(alone).toEqual(['nobody is going', 'itself', 'gone']);
  });

  it('keeps nobody waiting for a front-end that goes on after all', () => {
    const stops: number[] = [];
    destination.startRing(ring(0, 7));
    source.stopRing(0, nothing, FOR_GOOD);
    device.drain();
    source.stopRing(1, nothing, FOR_GOOD);
    destination.stopRing(0, (nextAvail) => stops.push(nextAvail), FOR_GOOD);
    expect(stops).toEqual([]);
    source.startRing(ring(0, 100));
    expect(stops).toEqual([7]);
  });

  it('leaves configuration and reset to the front-end whose rings run', () => {
    const accepted: boolean[] = [];
    destination.writeConfig(32, Uint8Array.of(0), (one) => accepted.push(one));
    destination.reset();
    destination.restoreDriverState(0);
    expect(device.log).toEqual([]);
    source.writeConfig(32, Uint8Array.of(0), (one) => accepted.push(one));
    source.restoreDriverState(0);
    source.reset();
    expect(device.log).toEqual(['config', 'restore 0', 'reset']);
    expect(accepted).toEqual([false, true]);
  });
});
