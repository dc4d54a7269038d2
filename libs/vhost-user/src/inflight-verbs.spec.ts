import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { type GuestRam } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type FakeFrontend, InflightArea, MESSAGE, Refused } from './testing/index.js';
import type { NotingBackend } from './testing/noting-backend.js';
import {
  SessionRig,
  RIG_FEATURES as FEATURES,
  RIG_PROTOCOL_MORE as PROTOCOL,
} from './testing/session-rig.js';

let rig: SessionRig;
let ram: GuestRam;
let eventfds: readonly number[];
let front: FakeFrontend;
let backend: NotingBackend;
beforeEach(() => {
  rig = new SessionRig();
  ({ ram, eventfds, front, backend } = rig);
});
afterEach(() => rig.close());

const during = <T>(work: Promise<T>): Promise<T> => rig.during(work);
const negotiate = (features = FEATURES, protocol = PROTOCOL) => rig.negotiate(features, protocol);
const running = () => rig.running(FEATURES, PROTOCOL);

describe('the record of requests in flight', () => {
  const areaFor = async (numQueues: number, queueSize: number) =>
    during(front.getInflightFd(numQueues, queueSize));
  const given: InflightArea[] = [];
  afterEach(() => given.splice(0).forEach((area) => area.close()));
  const get = async (numQueues = 2, queueSize = 8) => {
    const area = await areaFor(numQueues, queueSize);
    given.push(area);
    return area;
  };

  it('is made for the front-end to keep (vhost-user, GET_INFLIGHT_FD)', async () => {
    await negotiate();
    // 16 bytes and 16 an entry, in steps of 64; 64 more for what the driver has set.
    const two = { sizeBytes: 2 * 192 + 64, offsetBytes: 0, numQueues: 2, queueSize: 8 };
    expect(await get(2, 8)).toMatchObject(two);
    expect(await get(1, 128)).toMatchObject({ sizeBytes: 2112 + 64, numQueues: 1, queueSize: 128 });
  });

  it('answers as long as it was asked: QEMU pads its structure to 24 bytes', async () => {
    await negotiate();
    const question = Buffer.alloc(24);
    question.writeUInt16LE(1, 16);
    question.writeUInt16LE(8, 18);
    const { payload, fds } = await during(front.ask(MESSAGE.GET_INFLIGHT_FD, question));
    expect([payload.length, Number(payload.readBigUInt64LE(0)), fds.length]).toEqual([24, 192 + 64, 1]);
    for (const fd of fds) closeSync(fd);
  });

  it('is given to each ring, a part of its own (vhost-user, SET_INFLIGHT_FD)', async () => {
    await negotiate();
    await during(front.setMemTable(ram));
    await during(front.setInflightFd(await get()));
    await rig.run(0);
    await rig.run(1);
    const [first, second] = [0, 1].map((index) => backend.starts.get(index)!.inflight!);
    expect(first).toMatchObject({ sizeBytes: 192, entries: 8 });
    expect(second!.address - first!.address).toBe(192);
  });

  it('signals the call of a ring that had a record: who ran it may have died before the call', async () => {
    await negotiate();
    await during(front.setMemTable(ram));
    await during(front.setInflightFd(await get()));
    await rig.run();
    expect(native.consume(eventfds[1]!)).toBeGreaterThan(0);
  });

  it('is cleared when the front-end has learnt where the ring stopped, and not before', async () => {
    await negotiate();
    await during(front.setMemTable(ram));
    const area = await get();
    await during(front.setInflightFd(area));
    await rig.run();
    const { address, sizeBytes } = backend.starts.get(0)!.inflight!;
    native.poke(address, new Uint8Array(sizeBytes).fill(0x5a), 0, sizeBytes);
    await during(front.setVringEnable(0, false));
    const seen = new Uint8Array(sizeBytes);
    native.peek(address, seen, 0, sizeBytes);
    expect(seen.every((byte) => byte === 0x5a)).toBe(true);
    await during(front.getVringBase(0));
    native.peek(address, seen, 0, sizeBytes);
    expect(seen.every((byte) => byte === 0)).toBe(true);
  });

  /** Ring 0 runs with a record full of one byte; whether it is still as it was, or cleared. */
  const runMarked = async (area: InflightArea) => {
    await negotiate();
    await during(front.setMemTable(ram));
    await during(front.setInflightFd(area));
    await rig.run();
    const { address, sizeBytes } = backend.starts.get(0)!.inflight!;
    native.poke(address, new Uint8Array(sizeBytes).fill(0x5a), 0, sizeBytes);
    return () => {
      const seen = new Uint8Array(sizeBytes);
      native.peek(address, seen, 0, sizeBytes);
      const [first] = seen;
      return seen.every((byte) => byte === first) ? first : 'mixed';
    };
  };

  it('is cleared by a reset of the device', async () => {
    await negotiate();
    const record = await runMarked(await get());
    await during(front.resetDevice());
    expect(record()).toBe(0);
  });

  it('outlives SET_STATUS 0, for who has not asked yet where the ring stopped, until a new base', async () => {
    await negotiate();
    const record = await runMarked(await get());
    await during(front.setStatus(0));
    expect(record()).toBe(0x5a);
    await during(front.setVringBase(0, 0));
    expect(record()).toBe(0);
  });

  it('is believed, not the base, when the front-end gives it to a new session', async () => {
    await negotiate();
    const area = await get();
    const record = await runMarked(area);
    await during(front.setStatus(0));
    const next = new SessionRig();
    try {
      await next.negotiate(FEATURES, PROTOCOL);
      await next.during(next.front.setMemTable(next.ram));
      await next.during(next.front.setInflightFd(area));
      await next.run();
      expect(record()).toBe(0x5a);
    } finally {
      next.close();
    }
  });

  it('carries what the driver has set to the next session, and to no other driver', async () => {
    await negotiate();
    const [area, other] = [await get(), await get()];
    await during(front.setInflightFd(area));
    backend.driverState = 0;
    await during(front.setConfig(32, Uint8Array.of(0)));
    const next = new SessionRig();
    try {
      await next.negotiate(FEATURES, PROTOCOL);
      await next.during(next.front.setInflightFd(other));
      expect(next.backend.driverState).toBe(1);
      await next.during(next.front.setInflightFd(area));
      expect(next.backend.driverState).toBe(0);
      expect(next.backend.log).toContain('restore 0');
      await next.during(next.front.resetDevice());
      await next.during(next.front.setInflightFd(area));
      expect(next.backend.driverState).toBe(1);
    } finally {
      next.close();
    }
  });

  it('carries nothing in an area that another back-end has made', async () => {
    await negotiate();
    const { fd } = await get();
    const foreign = new InflightArea(fd, 2 * 192, 0, 2, 8);
    await during(front.setInflightFd(foreign));
    backend.driverState = 0;
    await during(front.setConfig(32, Uint8Array.of(0)));
    await during(front.setInflightFd(foreign));
    expect(backend.log).not.toContain('restore 0');
  });

  it('serves no ring that has more entries than it', async () => {
    await negotiate();
    await during(front.setMemTable(ram));
    await during(front.setInflightFd(await get(2, 4)));
    await rig.run();
    expect(backend.starts.get(0)!.inflight).toBeUndefined();
  });

  it.each([
    ['no ring', 0, 8],
    ['more rings than there are', 3, 8],
    ['rings of no entries', 1, 0],
    ['rings of too many', 1, 32769],
  ])('refuses to make one for %s', async (_, numQueues, queueSize) => {
    await negotiate();
    await expect(areaFor(numQueues, queueSize)).rejects.toThrow();
    expect(rig.faults).toEqual(['memory-region-invalid']);
  });

  it('refuses one that is too small for what it says, or past the end of its file', async () => {
    await negotiate();
    const { fd } = await get();
    const small = new InflightArea(fd, 100, 0, 2, 8);
    await expect(during(front.setInflightFd(small))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['memory-region-invalid']);
  });

  it('refuses another one while a ring runs', async () => {
    await running();
    await expect(during(front.setInflightFd(await get()))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['vring-running']);
  });

  it('refuses a descriptor that is no file', async () => {
    await negotiate();
    const eventfd = check('eventfd', native.eventfd(0));
    try {
      const wrong = new InflightArea(eventfd, 384, 0, 2, 8);
      await expect(during(front.setInflightFd(wrong))).rejects.toThrow(Refused);
      expect(rig.faults).toEqual(['descriptor-type-invalid']);
    } finally {
      closeSync(eventfd);
    }
  });
});
