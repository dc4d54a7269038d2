import { closeSync, readdirSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { check, native } from '@cairn/native';
import { FEATURE } from '@cairn/virtio';
import { type FakeDriver, type GuestRam, bits } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type FakeFrontend, Refused } from './testing/index.js';
import type { NotingBackend } from './testing/noting-backend.js';
import { SessionRig, RIG_FEATURES as FEATURES, RIG_PROTOCOL as PROTOCOL } from './testing/session-rig.js';
import type { VhostUserError } from './vhost-user-error.js';

const openDescriptors = () => readdirSync('/proc/self/fd').length;

let rig: SessionRig;
let ram: GuestRam;
let driver: FakeDriver;
let eventfds: readonly number[];
let front: FakeFrontend;
let backend: NotingBackend;
let ends: readonly (VhostUserError | undefined)[];
beforeEach(() => {
  rig = new SessionRig();
  ({ ram, driver, eventfds, front, backend, ends } = rig);
});
afterEach(() => rig.close());

const during = <T>(work: Promise<T>): Promise<T> => rig.during(work);
const hear = (): void => rig.hear();
const negotiate = (features = FEATURES, protocol = PROTOCOL) => rig.negotiate(features, protocol);
const running = () => rig.running(FEATURES, PROTOCOL);

describe('starting rings', () => {
  it('starts one with its memory, its guest physical addresses and its base', async () => {
    await running();
    const start = backend.starts.get(0)!;
    expect(start.addresses).toEqual({
      descriptors: driver.descGpa,
      avail: driver.availGpa,
      used: driver.usedGpa,
    });
    expect(start).toMatchObject({ size: 8, nextAvail: 3 });
    backend.memoryOf(0).writeByte(0x100, 1, 0x55);
    expect(ram.bytes(0x1_0000_0100, 1)[0]).toBe(0x55);
  });

  it('starts none before it is enabled, kicked, sized and mapped, in whatever order those come', async () => {
    await negotiate();
    await during(front.setVringEnable(0, true));
    await rig.setUp();
    expect(backend.log).not.toContain('start 0');
    await during(front.setMemTable(ram));
    expect(backend.log).toContain('start 0');
  });

  it('starts rings at once when protocol features were not agreed to (vhost-user, "Ring states")', async () => {
    await during(front.setFeatures(bits(FEATURE.VERSION_1)));
    await during(front.setMemTable(ram));
    await rig.setUp();
    hear();
    expect(backend.log).toContain('start 0');
  });

  it('starts rings of a front-end that agreed to no feature at all', async () => {
    await during(front.setFeatures(0n));
    await during(front.setMemTable(ram));
    await rig.setUp();
    hear();
    expect(backend.log).toContain('start 0');
  });

  it('starts two rings one by one', async () => {
    await running();
    await rig.run(1);
    expect(backend.log).toEqual(['start 1']);
  });

  it('refuses a ring outside the memory table, or across two of its regions', async () => {
    await negotiate();
    await during(front.setMemTable(ram));
    await rig.setUp();
    const used = ram.userAddress(0x1_0000_0000) + 0x1_0000 - 8;
    await during(front.setVringAddr(0, { ...rig.addresses, used }));
    await expect(during(front.setVringEnable(0, true))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['vring-address-unmapped']);
  });

  it.each([0, 3, 127, 32769, 65536, 0x80000000, 0xffffffff])('refuses a ring of %i entries', (size) => {
    void front.setVringNum(0, size);
    hear();
    expect(rig.faults).toEqual(['vring-size-invalid']);
  });

  it.each([2, 256, 0x80000000, 0xffffffff])('refuses ring %i of two', (index) => {
    void front.setVringBase(index, 0);
    hear();
    expect(rig.faults).toEqual(['vring-index-invalid']);
  });

  it.each(['setVringKick', 'setVringCall', 'setVringErr'] as const)(
    '%s refuses what is no eventfd: a file would always be readable',
    (set) => {
      const fd = check('memfd', native.memfd('no-eventfd', 8));
      void front[set](0, fd);
      closeSync(fd);
      hear();
      expect(rig.faults).toEqual(['descriptor-type-invalid']);
    },
  );

  it('makes a blocking eventfd non-blocking, so that a full one does not hold the thread', async () => {
    const blocking = check('eventfd', native.eventfd(0));
    await negotiate();
    await during(front.setVringCall(0, blocking));
    expect(native.consume(blocking)).toBeLessThan(0); // would wait for ever
    closeSync(blocking);
  });
});

describe('while a ring runs', () => {
  beforeEach(running);

  it('replaces its descriptors and tells the device', async () => {
    await during(front.setVringCall(0, eventfds[2]));
    await during(front.setVringKick(0));
    expect(backend.log).toEqual(['descriptors 0', 'descriptors 0']);
    expect(backend.fds.get(0)!.kickFd).toBeUndefined();
  });

  it('keeps a descriptor open until the device is done with it, and hears nothing meanwhile', async () => {
    const open = openDescriptors();
    backend.holdFds = true;
    const replaced = during(front.setVringCall(0, eventfds[2]));
    await setImmediate();
    expect(openDescriptors()).toBe(open + 1);
    expect(front.stream.poll()).toBeUndefined();
    backend.endFds();
    await replaced;
    expect(openDescriptors()).toBe(open);
  });

  it('takes the same ring addresses again, and refuses others', async () => {
    await during(front.setVringAddr(0, rig.addresses));
    expect(backend.log).toEqual([]);
    const moved = { ...rig.addresses, used: ram.userAddress(0x1_0000_0000) };
    await expect(during(front.setVringAddr(0, moved))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['vring-running']);
  });

  it('refuses another size', async () => {
    await expect(during(front.setVringNum(0, 16))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['vring-running']);
  });

  it('refuses another base', async () => {
    await expect(during(front.setVringBase(0, 0))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['vring-running']);
  });
});

describe('stopping a ring', () => {
  beforeEach(running);

  it('answers GET_VRING_BASE with where it stopped, after the last request in flight', async () => {
    backend.busy = true;
    const base = during(front.getVringBase(0));
    await setImmediate();
    expect(backend.log).toEqual(['stop 0']);
    expect(front.stream.poll()).toBeUndefined();
    backend.drain();
    expect(await base).toBe(7);
  });

  it('starts again where it stopped', async () => {
    await during(front.getVringBase(0));
    await during(front.setVringKick(0, eventfds[0]));
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'start 0']);
    expect(backend.starts.get(0)!.nextAvail).toBe(7);
  });

  it('stops one that is disabled and starts it when it is enabled', async () => {
    await during(front.setVringEnable(0, false));
    await during(front.setVringNum(0, 4));
    await during(front.setVringEnable(0, true));
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'start 0']);
    expect(backend.starts.get(0)!.size).toBe(4);
  });

  it('hears nothing else until it has stopped', async () => {
    backend.busy = true;
    front.acknowledge = false;
    void front.setVringEnable(0, false);
    void front.setVringNum(0, 4);
    hear();
    hear();
    backend.drain();
    hear();
    expect(ends).toEqual([]);
    // Heard before the ring had stopped, the new size would have been refused.
    void front.setVringEnable(0, true);
    hear();
    expect(backend.starts.get(0)!.size).toBe(4);
  });

  it('answers for a ring that never ran', async () => {
    expect(await during(front.getVringBase(1))).toBe(0);
    expect(backend.log).toEqual([]);
  });
});
