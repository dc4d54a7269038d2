import { closeSync, ftruncateSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { native } from '@cairn/native';
import { FEATURE } from '@cairn/virtio';
import { type FakeDriver, GuestRam, bits } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MAX_MEMORY_SLOTS } from './messages.js';
import type { Session } from './session.js';
import { type FakeFrontend, DirtyBitmap, MESSAGE, Refused } from './testing/index.js';
import type { NotingBackend } from './testing/noting-backend.js';
import {
  SessionRig,
  RIG_FEATURES as FEATURES,
  RIG_PROTOCOL_MORE as PROTOCOL,
} from './testing/session-rig.js';
import type { VhostUserError } from './vhost-user-error.js';

const openDescriptors = () => readdirSync('/proc/self/fd').length;

let rig: SessionRig;
let ram: GuestRam;
let driver: FakeDriver;
let front: FakeFrontend;
let backend: NotingBackend;
let session: Session;
let ends: readonly (VhostUserError | undefined)[];
beforeEach(() => {
  rig = new SessionRig();
  ({ ram, driver, front, backend, session, ends } = rig);
});
afterEach(() => rig.close());

const during = <T>(work: Promise<T>): Promise<T> => rig.during(work);
const hear = (): void => rig.hear();
const negotiate = (features = FEATURES, protocol = PROTOCOL) => rig.negotiate(features, protocol);
const running = () => rig.running(FEATURES, PROTOCOL);

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
    expect(rig.faults).toEqual(['memory-regions-overlap']);
    expect(view.byteLength).toBe(0);
  });

  it('goes when a running ring is not in the new memory', async () => {
    const other = new GuestRam([{ gpa: 0, sizeBytes: 0x1000 }]);
    try {
      await expect(during(front.setMemTable(other))).rejects.toThrow();
      expect(rig.faults).toEqual(['vring-address-unmapped']);
    } finally {
      other.close();
    }
  });

  it('goes once, with both memories unmapped, when it is closed while the rings drain', async () => {
    await rig.run(1);
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

describe('adding and removing memory', () => {
  const table = async () => {
    await negotiate();
    for (const region of ram.regions) await during(front.addMemReg(region));
  };

  it('tells how many regions there may be (vhost-user, GET_MAX_MEM_SLOTS)', async () => {
    await negotiate();
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
    hear();
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
      ({ gpa, sizeBytes }) => driver.descGpa >= gpa && driver.descGpa < gpa + sizeBytes,
    )!;
    await expect(during(front.remMemReg(region))).rejects.toThrow();
    expect(rig.faults).toEqual(['vring-address-unmapped']);
  });

  it('refuses one region more than there may be, and closes its descriptor', async () => {
    await negotiate();
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

  const logPayload = (sizeBytes: number): Buffer => {
    const payload = Buffer.alloc(16);
    payload.writeBigUInt64LE(BigInt(sizeBytes));
    return payload;
  };

  it('is given to rings once LOG_ALL is agreed to, and taken from them again (vhost-user, "Migration")', async () => {
    await running();
    await during(front.setLogBase(log));
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'start 0']);
    expect(backend.starts.get(0)!.log).toBeUndefined();
    await during(front.setFeatures(FEATURES | bits(FEATURE.VHOST_LOG_ALL)));
    expect(backend.starts.get(0)!.log).toMatchObject({ sizeBytes: log.sizeBytes, usedGpa: undefined });
    await during(front.setVringAddr(0, { ...rig.addresses, flags: 1, log: driver.usedGpa }));
    const { address, usedGpa } = backend.starts.get(0)!.log!;
    expect(usedGpa).toBe(driver.usedGpa);
    native.poke(address, Uint8Array.of(0b101), 0, 1);
    expect(log.pages()).toEqual([0, 0x2000]);
    await during(front.setFeatures(FEATURES));
    expect(backend.starts.get(0)!.log).toBeUndefined();
  });

  it('begins only when nothing of an earlier connection is in flight, which would write past it', async () => {
    await running();
    backend.othersInFlight = true;
    const answered = { yes: false };
    const begun = during(front.setLogBase(log)).then(() => (answered.yes = true));
    for (let turn = 0; turn < 20; turn += 1) await setImmediate();
    expect([answered.yes, backend.log]).toEqual([false, []]);
    backend.endOthers();
    await begun;
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'start 0']);
  });

  it('leaves nothing when the front-end goes away before it begins', async () => {
    await running();
    backend.othersInFlight = true;
    const mapped = () => readFileSync('/proc/self/maps', 'utf8').split('\n').length;
    const before = [openDescriptors(), mapped()];
    front.stream.send(MESSAGE.SET_LOG_BASE, logPayload(log.sizeBytes), { fds: [log.fd] });
    hear();
    expect([openDescriptors(), mapped()]).toEqual(before.map((count) => count + 1));
    session.close();
    backend.endOthers();
    expect(ends).toEqual([undefined]);
    expect(openDescriptors()).toBeLessThan(before[0]!);
    expect(mapped()).toBeLessThanOrEqual(before[1]!);
  });

  it('is replaced by a larger one while rings run', async () => {
    await running();
    const larger = new DirtyBitmap(0x8_0000_0000);
    try {
      await during(front.setLogBase(log));
      await during(front.setFeatures(FEATURES | bits(FEATURE.VHOST_LOG_ALL)));
      await during(front.setLogBase(larger));
      expect(backend.starts.get(0)!.log).toMatchObject({ sizeBytes: larger.sizeBytes });
    } finally {
      larger.close();
    }
  });

  it('is refused when its file does not hold it, or is no file', async () => {
    await running();
    const before = openDescriptors();
    front.stream.send(MESSAGE.SET_LOG_BASE, logPayload(log.sizeBytes + 1), { fds: [log.fd] });
    hear();
    expect(rig.faults).toEqual(['memory-region-invalid']);
    expect(openDescriptors()).toBeLessThan(before);
  });

  it('counts as memory that the front-end may take away', async () => {
    await running();
    await during(front.setLogBase(log));
    await during(front.setFeatures(FEATURES | bits(FEATURE.VHOST_LOG_ALL)));
    const again = openSync(`/proc/self/fd/${log.fd}`, 'r+');
    ftruncateSync(again, 0);
    closeSync(again);
    expect(session.memoryFaulted).toBe(false);
    native.poke(backend.starts.get(0)!.log!.address, Uint8Array.of(1), 0, 1);
    expect(session.memoryFaulted).toBe(true);
  });
});
