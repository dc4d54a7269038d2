import { closeSync, ftruncateSync, openSync, readdirSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { FEATURE } from '@cairn/virtio';
import { GuestRam, bits } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MAX_MEMORY_SLOTS } from './messages.js';
import {
  DirtyBitmap,
  InflightArea,
  MESSAGE,
  PROTOCOL_FEATURE,
  Refused,
  type FakeFrontend,
} from './testing/index.js';
import type { NotingBackend } from './testing/noting-backend.js';
import { RIG_FEATURES, RIG_PROTOCOL, SessionRig } from './testing/session-rig.js';

const openDescriptors = () => readdirSync('/proc/self/fd').length;

const PROTOCOL =
  RIG_PROTOCOL |
  bits(
    PROTOCOL_FEATURE.LOG_SHMFD,
    PROTOCOL_FEATURE.INFLIGHT_SHMFD,
    PROTOCOL_FEATURE.RESET_DEVICE,
    PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS,
    PROTOCOL_FEATURE.STATUS,
  );

let rig: SessionRig;
let ram: GuestRam;
let front: FakeFrontend;
let backend: NotingBackend;
beforeEach(() => {
  rig = new SessionRig();
  ({ ram, front, backend } = rig);
});
afterEach(() => rig.close());

const during = <T>(work: Promise<T>): Promise<T> => rig.during(work);
const running = () => rig.running(RIG_FEATURES, PROTOCOL);

describe('resetting the device', () => {
  it('RESET_DEVICE stops and disables every ring, and makes the device as it was (vhost-user, RESET_DEVICE)', async () => {
    await running();
    await during(front.resetDevice());
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'reset']);
    // Memory and descriptors stay; features, base and being enabled do not.
    await during(front.setFeatures(RIG_FEATURES));
    expect(backend.log).not.toContain('start 0');
    await during(front.setVringBase(0, 0));
    await during(front.setVringKick(0, rig.eventfds[0]));
    expect(backend.log).not.toContain('start 0');
    await during(front.setVringEnable(0, true));
    expect(backend.log.at(-1)).toBe('start 0');
    expect(backend.starts.get(0)).toMatchObject({ size: 8, nextAvail: 0 });
  });

  it('waits for what is in flight, and hears nothing meanwhile', async () => {
    await running();
    backend.busy = true;
    front.acknowledge = false;
    void front.resetDevice();
    const features = front.getFeatures();
    rig.hear();
    expect(backend.log).toEqual(['stop 0']);
    backend.drain();
    await during(features);
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'reset']);
  });

  it('keeps any other status than 0 for GET_STATUS (vhost-user, SET_STATUS)', async () => {
    await running();
    expect(await during(front.getStatus())).toBe(0);
    await during(front.setStatus(0x0f));
    expect(await during(front.getStatus())).toBe(0x0f);
    expect(backend.log).toEqual([]);
  });

  it('SET_STATUS 0 stops and disables the rings, and forgets neither base nor device (QEMU 7.2)', async () => {
    await running();
    backend.nextAvail = 1234;
    await during(front.setStatus(0));
    expect(await during(front.getStatus())).toBe(0);
    await during(front.setVringEnable(0, false));
    expect(await during(front.getVringBase(0))).toBe(1234);
    expect(backend.log).toEqual(['stop 0', 'drained 0']);
    // The guest goes on: with the features of before, where the rings stopped.
    await during(front.setFeatures(RIG_FEATURES));
    await during(front.setVringBase(0, 1234));
    await during(front.setVringKick(0, rig.eventfds[0]));
    expect(backend.log).not.toContain('start 0');
    await during(front.setVringEnable(0, true));
    expect(backend.starts.get(0)).toMatchObject({ size: 8, nextAvail: 1234 });
  });
});

describe('adding and removing memory', () => {
  const table = async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    for (const region of ram.regions) await during(front.addMemReg(region));
  };

  it('tells how many regions there may be (vhost-user, GET_MAX_MEM_SLOTS)', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    expect(await during(front.getMaxMemSlots())).toBe(MAX_MEMORY_SLOTS);
  });

  it('starts a ring in memory that came region by region (vhost-user, ADD_MEM_REG)', async () => {
    await table();
    await rig.run();
    backend.memoryOf(0).writeByte(0x100, 0, 0x11);
    backend.memoryOf(0).writeByte(0x100, 1, 0x22);
    expect([ram.bytes(0x100, 1)[0], ram.bytes(0x1_0000_0100, 1)[0]]).toEqual([0x11, 0x22]);
  });

  it('lets rings drain, and starts them again with the new region in sight', async () => {
    await table();
    await rig.run();
    backend.log.length = 0;
    backend.busy = true;
    const dimm = ram.plug({ gpa: 0x2_0000_0000, sizeBytes: 0x1000 });
    const added = during(front.addMemReg(dimm));
    rig.hear();
    expect(backend.log).toEqual(['stop 0']);
    backend.drain();
    await added;
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'start 0']);
    expect(backend.starts.get(0)!.nextAvail).toBe(backend.nextAvail);
    backend.memoryOf(0).writeByte(0, 2, 0x33);
    expect(dimm.bytes[0]).toBe(0x33);
  });

  it('forgets a region, with its descriptor (vhost-user, REM_MEM_REG)', async () => {
    await table();
    await rig.run();
    const dimm = ram.plug({ gpa: 0x2_0000_0000, sizeBytes: 0x1000 });
    const before = openDescriptors();
    await during(front.addMemReg(dimm));
    expect(openDescriptors()).toBe(before + 1);
    await during(front.remMemReg(dimm));
    expect(openDescriptors()).toBe(before);
    expect(backend.starts.get(0)!.layout.runs.map(({ gpa }) => gpa)).toEqual([0, 0x1_0000_0000]);
    ram.unplug(dimm);
  });

  it('takes and closes the descriptor that QEMU before 8.0 sends with REM_MEM_REG', async () => {
    await table();
    const [, high] = ram.regions;
    const before = openDescriptors();
    const payload = Buffer.alloc(40);
    payload.writeBigUInt64LE(BigInt(high!.gpa), 8);
    payload.writeBigUInt64LE(BigInt(high!.sizeBytes), 16);
    payload.writeBigUInt64LE(BigInt(high!.userAddress), 24);
    await during(front.tell(MESSAGE.REM_MEM_REG, payload, [high!.fd]));
    expect(openDescriptors()).toBe(before - 1);
  });

  it('refuses to remove what is not there', async () => {
    await table();
    const other = { ...ram.regions[0]!, sizeBytes: 0x1000 };
    await expect(during(front.remMemReg(other))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['memory-region-invalid']);
  });

  it('goes when a running ring loses its memory', async () => {
    await table();
    await rig.run();
    const region = ram.regions.find(
      ({ gpa, sizeBytes }) => rig.driver.descGpa >= gpa && rig.driver.descGpa < gpa + sizeBytes,
    )!;
    await expect(during(front.remMemReg(region))).rejects.toThrow();
    expect(rig.faults).toEqual(['vring-address-unmapped']);
  });

  it('refuses one region more than there may be, and closes its descriptor', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    const many = new GuestRam(
      Array.from({ length: MAX_MEMORY_SLOTS + 1 }, (_, i) => ({ gpa: i * 0x1000, sizeBytes: 0x1000 })),
    );
    try {
      for (const region of many.regions.slice(0, MAX_MEMORY_SLOTS)) await during(front.addMemReg(region));
      await expect(during(front.addMemReg(many.regions[MAX_MEMORY_SLOTS]!))).rejects.toThrow(Refused);
      expect(rig.faults).toEqual(['memory-region-invalid']);
    } finally {
      many.close();
    }
  });
});

describe('the dirty log', () => {
  let log: DirtyBitmap;
  beforeEach(() => {
    log = new DirtyBitmap(0x2_0000_0000);
  });
  afterEach(() => log.close());

  it('is given to rings once LOG_ALL is agreed to, and taken from them again (vhost-user, "Migration")', async () => {
    await running();
    await during(front.setLogBase(log));
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'start 0']);
    expect(backend.starts.get(0)!.log).toBeUndefined();
    await during(front.setFeatures(RIG_FEATURES | bits(FEATURE.VHOST_LOG_ALL)));
    expect(backend.starts.get(0)!.log).toMatchObject({ sizeBytes: log.sizeBytes, usedGpa: undefined });
    await during(front.setVringAddr(0, { ...rig.addresses, flags: 1, log: rig.driver.usedGpa }));
    const { address, usedGpa } = backend.starts.get(0)!.log!;
    expect(usedGpa).toBe(rig.driver.usedGpa);
    native.poke(address, Uint8Array.of(0b101), 0, 1);
    expect(log.pages()).toEqual([0, 0x2000]);
    await during(front.setFeatures(RIG_FEATURES));
    expect(backend.starts.get(0)!.log).toBeUndefined();
  });

  it('is replaced by a larger one while rings run', async () => {
    await running();
    const larger = new DirtyBitmap(0x8_0000_0000);
    try {
      await during(front.setLogBase(log));
      await during(front.setFeatures(RIG_FEATURES | bits(FEATURE.VHOST_LOG_ALL)));
      await during(front.setLogBase(larger));
      expect(backend.starts.get(0)!.log).toMatchObject({ sizeBytes: larger.sizeBytes });
    } finally {
      larger.close();
    }
  });

  it('is refused when its file does not hold it, or is no file', async () => {
    await running();
    const before = openDescriptors();
    const payload = Buffer.alloc(16);
    payload.writeBigUInt64LE(BigInt(log.sizeBytes + 1));
    front.stream.send(MESSAGE.SET_LOG_BASE, payload, { fds: [log.fd] });
    rig.hear();
    expect(rig.faults).toEqual(['memory-region-invalid']);
    expect(openDescriptors()).toBeLessThan(before);
  });

  it('counts as memory that the front-end may take away', async () => {
    await running();
    await during(front.setLogBase(log));
    await during(front.setFeatures(RIG_FEATURES | bits(FEATURE.VHOST_LOG_ALL)));
    const again = openSync(`/proc/self/fd/${log.fd}`, 'r+');
    ftruncateSync(again, 0);
    closeSync(again);
    expect(rig.session.memoryFaulted).toBe(false);
    native.poke(backend.starts.get(0)!.log!.address, Uint8Array.of(1), 0, 1);
    expect(rig.session.memoryFaulted).toBe(true);
  });
});

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
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    // 16 bytes and 16 an entry, in steps of 64; 64 more for what the driver has set.
    const two = { sizeBytes: 2 * 192 + 64, offsetBytes: 0, numQueues: 2, queueSize: 8 };
    expect(await get(2, 8)).toMatchObject(two);
    expect(await get(1, 128)).toMatchObject({ sizeBytes: 2112 + 64, numQueues: 1, queueSize: 128 });
  });

  it('answers as long as it was asked: QEMU pads its structure to 24 bytes', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    const question = Buffer.alloc(24);
    question.writeUInt16LE(1, 16);
    question.writeUInt16LE(8, 18);
    const { payload, fds } = await during(front.ask(MESSAGE.GET_INFLIGHT_FD, question));
    expect([payload.length, Number(payload.readBigUInt64LE(0)), fds.length]).toEqual([24, 192 + 64, 1]);
    for (const fd of fds) closeSync(fd);
  });

  it('is given to each ring, a part of its own (vhost-user, SET_INFLIGHT_FD)', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    await during(front.setMemTable(ram));
    await during(front.setInflightFd(await get()));
    await rig.run(0);
    await rig.run(1);
    const [first, second] = [0, 1].map((index) => backend.starts.get(index)!.inflight!);
    expect(first).toMatchObject({ sizeBytes: 192, entries: 8 });
    expect(second!.address - first!.address).toBe(192);
  });

  it('signals the call of a ring that had a record: who ran it may have died before the call', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    await during(front.setMemTable(ram));
    await during(front.setInflightFd(await get()));
    await rig.run();
    expect(native.consume(rig.eventfds[1]!)).toBeGreaterThan(0);
  });

  it('is cleared when the front-end has learnt where the ring stopped, and not before', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
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
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
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
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    const record = await runMarked(await get());
    await during(front.resetDevice());
    expect(record()).toBe(0);
  });

  it('outlives SET_STATUS 0, for who has not asked yet where the ring stopped, until a new base', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    const record = await runMarked(await get());
    await during(front.setStatus(0));
    expect(record()).toBe(0x5a);
    await during(front.setVringBase(0, 0));
    expect(record()).toBe(0);
  });

  it('is believed, not the base, when the front-end gives it to a new session', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    const area = await get();
    const record = await runMarked(area);
    await during(front.setStatus(0));
    const next = new SessionRig();
    try {
      await next.negotiate(RIG_FEATURES, PROTOCOL);
      await next.during(next.front.setMemTable(next.ram));
      await next.during(next.front.setInflightFd(area));
      await next.run();
      expect(record()).toBe(0x5a);
    } finally {
      next.close();
    }
  });

  it('carries what the driver has set to the next session, and to no other driver', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    const [area, other] = [await get(), await get()];
    await during(front.setInflightFd(area));
    backend.driverState = 0;
    await during(front.setConfig(32, Uint8Array.of(0)));
    const next = new SessionRig();
    try {
      await next.negotiate(RIG_FEATURES, PROTOCOL);
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
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    const { fd } = await get();
    const foreign = new InflightArea(fd, 2 * 192, 0, 2, 8);
    await during(front.setInflightFd(foreign));
    backend.driverState = 0;
    await during(front.setConfig(32, Uint8Array.of(0)));
    await during(front.setInflightFd(foreign));
    expect(backend.log).not.toContain('restore 0');
  });

  it('serves no ring that has more entries than it', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
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
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
    await expect(areaFor(numQueues, queueSize)).rejects.toThrow();
    expect(rig.faults).toEqual(['memory-region-invalid']);
  });

  it('refuses one that is too small for what it says, or past the end of its file', async () => {
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
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
    await rig.negotiate(RIG_FEATURES, PROTOCOL);
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
