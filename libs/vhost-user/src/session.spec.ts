import { closeSync, ftruncateSync, openSync, readdirSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { check, native } from '@cairn/native';
import { FEATURE } from '@cairn/virtio';
import { type FakeDriver, GuestRam } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Session } from './session.js';
import { type FakeFrontend, FLAG, MESSAGE, PROTOCOL_FEATURE, Refused } from './testing/index.js';
import type { NotingBackend } from './testing/noting-backend.js';
import { SessionRig, RIG_FEATURES as FEATURES, RIG_PROTOCOL as PROTOCOL } from './testing/session-rig.js';
import type { VhostUserError } from './vhost-user-error.js';

const openDescriptors = () => readdirSync('/proc/self/fd').length;
const bit = (number: number) => 1n << BigInt(number);
const MORE =
  bit(PROTOCOL_FEATURE.LOG_SHMFD) |
  bit(PROTOCOL_FEATURE.INFLIGHT_SHMFD) |
  bit(PROTOCOL_FEATURE.RESET_DEVICE) |
  bit(PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS) |
  bit(PROTOCOL_FEATURE.STATUS);
const CHANNEL = bit(PROTOCOL_FEATURE.BACKEND_REQ);

describe('a session with a front-end', () => {
  let rig: SessionRig;
  let ram: GuestRam;
  let driver: FakeDriver;
  let eventfds: readonly number[];
  let front: FakeFrontend;
  let backend: NotingBackend;
  let session: Session;
  let ends: readonly (VhostUserError | undefined)[];

  beforeEach(() => {
    rig = new SessionRig();
    ({ ram, driver, eventfds, front, backend, session, ends } = rig);
  });
  afterEach(() => rig.close());

  const during = <T>(work: Promise<T>): Promise<T> => rig.during(work);
  const hear = (): void => rig.hear();
  const fault = () => rig.faults;
  const negotiate = (features = FEATURES, protocol = PROTOCOL) => rig.negotiate(features, protocol);
  const addresses = () => rig.addresses;
  const setUp = (index = 0) => rig.setUp(index);
  const run = (index = 0) => rig.run(index);
  const running = () => rig.running();

  describe('negotiating', () => {
    it('offers the features of its device', async () => {
      expect(await during(front.getFeatures())).toBe(
        FEATURES | bit(FEATURE.BLK_FLUSH) | bit(FEATURE.VHOST_LOG_ALL),
      );
      expect(await during(front.getProtocolFeatures())).toBe(PROTOCOL | CHANNEL | MORE);
    });

    it('passes on what was agreed to, once', async () => {
      await negotiate();
      await during(front.setFeatures(FEATURES));
      expect(backend.log).toEqual(['features 1:40000000']);
    });

    it('refuses a feature that was not offered, saying so before it goes', async () => {
      await during(front.setProtocolFeatures(PROTOCOL));
      await expect(during(front.setFeatures(FEATURES | bit(FEATURE.BLK_RO)))).rejects.toThrow(Refused);
      expect(fault()).toEqual(['features-not-offered']);
      expect(backend.log).toEqual([]);
    });

    it.each([bit(2), bit(31), bit(32), bit(63)])('refuses protocol features %x', (extra) => {
      void front.setProtocolFeatures(PROTOCOL | extra);
      hear();
      expect(fault()).toEqual(['protocol-features-not-offered']);
    });

    it('refuses a message whose protocol feature was not agreed to', () => {
      void front.setProtocolFeatures(bit(PROTOCOL_FEATURE.REPLY_ACK));
      front.stream.send(MESSAGE.GET_QUEUE_NUM);
      hear();
      expect(fault()).toEqual(['message-not-negotiated']);
    });

    it('refuses other features while a ring runs', async () => {
      await running();
      await expect(during(front.setFeatures(FEATURES | bit(FEATURE.BLK_FLUSH)))).rejects.toThrow(Refused);
      expect(fault()).toEqual(['vring-running']);
    });

    it('tells how many queues there are', async () => {
      await negotiate();
      expect(await during(front.getQueueNum())).toBe(2);
    });

    it('acknowledges only when asked to, and only once it was agreed on (REPLY_ACK)', async () => {
      const ask = { flags: FLAG.VERSION | FLAG.NEED_REPLY };
      front.stream.send(MESSAGE.SET_OWNER, undefined, ask);
      hear();
      expect(front.stream.poll()).toBeUndefined();
      await negotiate();
      front.stream.send(MESSAGE.SET_OWNER);
      hear();
      expect(front.stream.poll()).toBeUndefined();
      front.stream.send(MESSAGE.SET_OWNER, undefined, ask);
      hear();
      expect(front.stream.poll()?.payload.readBigUInt64LE()).toBe(0n);
    });

    it('gives the configuration space, and an empty payload where there is none', async () => {
      await negotiate();
      expect([...(await during(front.getConfig(24, 4)))]).toEqual([24, 24, 24, 24]);
      await expect(during(front.getConfig(60, 4))).rejects.toThrow(Refused);
      expect(ends).toEqual([]);
    });

    it('passes a write to the configuration space on, and drops who writes what it may not', async () => {
      await negotiate();
      await during(front.setConfig(32, Uint8Array.of(0)));
      expect(backend.log.at(-1)).toBe('config 32 0');
      backend.acceptConfig = false;
      await expect(during(front.setConfig(0, Uint8Array.of(1)))).rejects.toThrow(Refused);
      expect(fault()).toEqual(['config-invalid']);
    });
  });

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
      await setUp();
      expect(backend.log).not.toContain('start 0');
      await during(front.setMemTable(ram));
      expect(backend.log).toContain('start 0');
    });

    it('starts rings at once when protocol features were not agreed to (vhost-user, "Ring states")', async () => {
      await during(front.setFeatures(bit(FEATURE.VERSION_1)));
      await during(front.setMemTable(ram));
      await setUp();
      hear();
      expect(backend.log).toContain('start 0');
    });

    it('starts rings of a front-end that agreed to no feature at all', async () => {
      await during(front.setFeatures(0n));
      await during(front.setMemTable(ram));
      await setUp();
      hear();
      expect(backend.log).toContain('start 0');
    });

    it('starts two rings one by one', async () => {
      await running();
      await run(1);
      expect(backend.log).toEqual(['start 1']);
    });

    it('refuses a ring outside the memory table, or across two of its regions', async () => {
      await negotiate();
      await during(front.setMemTable(ram));
      await setUp();
      const used = ram.userAddress(0x1_0000_0000) + 0x1_0000 - 8;
      await during(front.setVringAddr(0, { ...addresses(), used }));
      await expect(during(front.setVringEnable(0, true))).rejects.toThrow(Refused);
      expect(fault()).toEqual(['vring-address-unmapped']);
    });

    it.each([0, 3, 127, 32769, 65536, 0x80000000, 0xffffffff])('refuses a ring of %i entries', (size) => {
      void front.setVringNum(0, size);
      hear();
      expect(fault()).toEqual(['vring-size-invalid']);
    });

    it.each([2, 256, 0x80000000, 0xffffffff])('refuses ring %i of two', (index) => {
      void front.setVringBase(index, 0);
      hear();
      expect(fault()).toEqual(['vring-index-invalid']);
    });

    it.each(['setVringKick', 'setVringCall', 'setVringErr'] as const)(
      '%s refuses what is no eventfd: a file would always be readable',
      (set) => {
        const fd = check('memfd', native.memfd('no-eventfd', 8));
        void front[set](0, fd);
        closeSync(fd);
        hear();
        expect(fault()).toEqual(['descriptor-type-invalid']);
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
      await during(front.setVringAddr(0, addresses()));
      expect(backend.log).toEqual([]);
      const moved = { ...addresses(), used: ram.userAddress(0x1_0000_0000) };
      await expect(during(front.setVringAddr(0, moved))).rejects.toThrow(Refused);
      expect(fault()).toEqual(['vring-running']);
    });

    it('refuses another size', async () => {
      await expect(during(front.setVringNum(0, 16))).rejects.toThrow(Refused);
      expect(fault()).toEqual(['vring-running']);
    });

    it('refuses another base', async () => {
      await expect(during(front.setVringBase(0, 0))).rejects.toThrow(Refused);
      expect(fault()).toEqual(['vring-running']);
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

  describe('replacing the memory', () => {
    beforeEach(running);

    it('stops the rings, lets them drain, unmaps, and starts them in the new memory', async () => {
      backend.busy = true;
      const memory = backend.memoryOf(0);
      const view = memory.view(0, 16);
      const replaced = during(front.setMemTable(ram));
      await setImmediate();
      // A request in flight may still write to the memory.
      expect(view.byteLength).toBe(16);
      memory.writeByte(0x200, 0, 1);
      backend.drain();
      expect(view.byteLength).toBe(0);
      await replaced;
      expect(backend.log).toEqual(['stop 0', 'drained 0', 'start 0']);
      backend.memoryOf(0).writeByte(0x200, 0, 2);
      expect(ram.bytes(0x200, 1)[0]).toBe(2);
    });

    it('keeps the old memory when the new one is refused', async () => {
      const view = backend.memoryOf(0).view(0, 16);
      backend.busy = true;
      const overlapping = Buffer.alloc(8 + 64);
      overlapping.writeUInt32LE(2, 0);
      for (const at of [8, 40]) overlapping.writeBigUInt64LE(0x1000n, at + 8);
      const fds = ram.regions.map(({ fd }) => fd);
      front.stream.send(MESSAGE.SET_MEM_TABLE, overlapping, { fds });
      hear();
      // It goes; but not the memory under a request in flight.
      expect(backend.log).toEqual(['stop 0']);
      expect(view.byteLength).toBe(16);
      expect(ends).toEqual([]);
      backend.drain();
      expect(fault()).toEqual(['memory-regions-overlap']);
      expect(view.byteLength).toBe(0);
    });

    it('goes when a running ring is not in the new memory', async () => {
      const other = new GuestRam([{ gpa: 0, sizeBytes: 0x1000 }]);
      try {
        await expect(during(front.setMemTable(other))).rejects.toThrow();
        expect(fault()).toEqual(['vring-address-unmapped']);
      } finally {
        other.close();
      }
    });

    it('goes once, with both memories unmapped, when it is closed while the rings drain', async () => {
      await run(1);
      backend.busy = true;
      front.acknowledge = false;
      void front.setMemTable(ram);
      hear();
      session.close();
      backend.drain(1);
      expect(ends).toEqual([]);
      backend.drain(0);
      expect(ends).toEqual([undefined]);
      expect(backend.log.filter((line) => line.startsWith('start'))).toEqual(['start 1']);
      // Closing anew, and late news, change nothing.
      session.close();
      hear();
      expect(ends).toHaveLength(1);
    });
  });

  describe('ending', () => {
    it('closes when the front-end goes, and not before its last request', async () => {
      await running();
      backend.busy = true;
      const view = backend.memoryOf(0).view(0, 16);
      front.close();
      hear();
      expect([ends.length, view.byteLength]).toEqual([0, 16]);
      backend.drain();
      expect(ends).toEqual([undefined]);
      expect(view.byteLength).toBe(0);
    });

    it('finds that the front-end has gone as soon as it hears again', async () => {
      await running();
      backend.busy = true;
      front.acknowledge = false;
      void front.setVringEnable(0, false);
      hear();
      front.close();
      hear();
      expect(ends).toEqual([]);
      backend.drain();
      expect(ends).toEqual([undefined]);
    });

    it('closes while the device thinks about a write to its configuration', async () => {
      await negotiate();
      backend.acceptConfig = undefined;
      front.acknowledge = false;
      void front.setConfig(32, Uint8Array.of(0));
      hear();
      session.close();
      expect(ends).toEqual([undefined]);
      backend.endConfig(false);
      expect(ends).toHaveLength(1);
    });

    it('drops who breaks the protocol with a reason, after the answer', async () => {
      await negotiate();
      front.stream.send(99);
      hear();
      expect(fault()).toEqual(['message-unknown']);
      expect(await front.closedByBackend(1000)).toBe(true);
    });

    it('knows that the front-end took memory away', async () => {
      await running();
      const kept = openSync(`/proc/self/fd/${ram.regions[1]!.fd}`, 'r+');
      ftruncateSync(kept, 0);
      closeSync(kept);
      expect(session.memoryFaulted).toBe(false);
      backend.memoryOf(0).writeByte(0x3000, 1, 1);
      expect(session.memoryFaulted).toBe(true);
    });
  });

  it('lets others have their turn when a front-end never stops talking', () => {
    const owner = Buffer.from('030000000100000000000000', 'hex');
    front.stream.sendBytes(Buffer.concat(Array.from({ length: 1000 }, () => owner)));
    front.stream.send(99);
    hear();
    expect(rig.more).toBe(1);
    expect(ends).toEqual([]);
    for (let turns = 0; turns < 1000 && ends.length === 0; turns += 1) hear();
    expect(fault()).toEqual(['message-unknown']);
    expect(rig.more).toBeGreaterThan(10);
  });

  describe('telling that the configuration has changed', () => {
    it('does so on the channel that the front-end gave', async () => {
      await negotiate(FEATURES, PROTOCOL | CHANNEL);
      expect(session.notifyConfigChange()).toBe(false);
      await during(front.openBackendChannel());
      expect(session.notifyConfigChange()).toBe(true);
      await front.nextConfigChange(1000);
    });

    it('does not wait for a front-end that never reads, even when that makes the channel block', async () => {
      await negotiate(FEATURES, PROTOCOL | CHANNEL);
      const pair = new Int32Array(2);
      check('socketPair', native.socketPair(pair));
      front.stream.send(MESSAGE.SET_BACKEND_REQ_FD, undefined, { fds: [pair[1]!] });
      hear();
      native.setNonblocking(pair[1]!, 0);
      let told = 0;
      while (session.notifyConfigChange()) told += 1;
      expect(told).toBeGreaterThan(1);
      closeSync(pair[0]!);
      closeSync(pair[1]!);
    });

    it('refuses a channel without a descriptor', async () => {
      await negotiate(FEATURES, PROTOCOL | CHANNEL);
      front.stream.send(MESSAGE.SET_BACKEND_REQ_FD);
      hear();
      expect(fault()).toEqual(['descriptor-count-invalid']);
    });
  });
});
