import { closeSync, ftruncateSync } from 'node:fs';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import { FLAG, MESSAGE } from '@cairn/vhost-user/testing';
import { BLK_TYPE, bits, GuestRam, RING_FEATURE } from '@cairn/virtio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { HostileArena, tolerate } from './hostile-arena.js';
import type { RawGuest } from './raw-guest.js';
import { u32, u64 } from './wire-bytes.js';

const KiB = 1024;
const MiB = 2 ** 20;
const MAX_SLOTS = 64;

/** Guest memory of many small regions, the rings in the first. */
const manyRegions = (count: number) =>
  Array.from({ length: count }, (_, index) => ({
    gpa: index * 4 * MiB,
    sizeBytes: index === 0 ? MiB : 64 * KiB,
  }));

/** Payload of ADD_MEM_REG and REM_MEM_REG. */
const regionPayload = (...values: (number | bigint)[]): Buffer => u64(0, ...values);

describe('hostile memory slots cost only their connection', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  const memfd = (sizeBytes = MiB) => arena.own(check('memfd', native.memfd('hostile', sizeBytes)));

  /** Sends a message that must cost the connection; the name under which it was counted. */
  const refused = async (guest: RawGuest, code: number, payload: Buffer, fds: number[] = []) => {
    const faults = await arena.faultsOf(() => tolerate(guest.frontend.tell(code, payload, fds)));
    expect(await guest.frontend.closedByBackend()).toBe(true);
    return faults;
  };

  const REGION = 'memory-region-invalid';
  const user = 0x6000_0000_0000;
  it.each([
    ['that overlaps another', regionPayload(MiB / 2, MiB, user, 0), 'memory-regions-overlap'],
    ['that is another', regionPayload(0, MiB, 0x5550_0000_0000, 0), 'memory-regions-overlap'],
    [
      'whose user addresses overlap',
      regionPayload(8 * MiB, MiB, 0x5550_0000_0000, 0),
      'memory-regions-overlap',
    ],
    ['of no bytes', regionPayload(8 * MiB, 0, user, 0), REGION],
    ['off the page', regionPayload(8 * MiB + 512, MiB, user, 0), REGION],
    ['past the end of its file', regionPayload(8 * MiB, 2 * MiB, user, 0), REGION],
    ['with an offset past the end of its file', regionPayload(8 * MiB, MiB, user, MiB), REGION],
    ['too far from the others', regionPayload(2 ** 42, MiB, user, 0), REGION],
    ['past the highest address', regionPayload(2 ** 52, MiB, user, 0), REGION],
    ['whose user addresses wrap', regionPayload(8 * MiB, MiB, 2 ** 53 - 4096, 0), REGION],
    ['of 2^64 - 1 bytes', regionPayload(0, (1n << 64n) - 1n, user, 0), 'number-too-large'],
    ['at the last address', regionPayload((1n << 64n) - 4096n, 4096, user, 0), 'number-too-large'],
  ])('a region more %s', async (_, payload, fault) => {
    const guest = await arena.guest({ slots: true });
    expect(await refused(guest, MESSAGE.ADD_MEM_REG, payload, [memfd()])).toEqual([fault]);
  });

  it('a region without a descriptor, with two, and with one that is no memory', async () => {
    const payload = regionPayload(8 * MiB, MiB, user, 0);
    const eventfd = arena.own(check('eventfd', native.eventfd(EFD_NONBLOCK)));
    for (const [fds, fault] of [
      [[], 'descriptor-count-invalid'],
      [[memfd(), memfd()], 'descriptor-count-invalid'],
      [[eventfd], 'descriptor-type-invalid'],
    ] as const) {
      const guest = await arena.guest({ slots: true });
      expect(await refused(guest, MESSAGE.ADD_MEM_REG, payload, [...fds])).toEqual([fault]);
      guest.close();
    }
  });

  it.each([
    [
      'another size',
      (r: GuestRam['regions'][number]) => regionPayload(r.gpa, r.sizeBytes / 2, r.userAddress, 0),
    ],
    [
      'another address',
      (r: GuestRam['regions'][number]) => regionPayload(r.gpa + 4096, r.sizeBytes, r.userAddress, 0),
    ],
    [
      'another user address',
      (r: GuestRam['regions'][number]) => regionPayload(r.gpa, r.sizeBytes, r.userAddress + 4096, 0),
    ],
  ])('a region that is taken away under %s', async (_, payload) => {
    const guest = await arena.guest({ slots: true });
    expect(await refused(guest, MESSAGE.REM_MEM_REG, payload(guest.ram.regions[0]!))).toEqual([REGION]);
  });

  it('a region that is taken away twice', async () => {
    const guest = await arena.guest({ slots: true, ringRegion: 0 });
    const region = guest.ram.regions[1]!;
    await guest.removeRegion(region);
    await guest.addRegion(region);
    await guest.read();
    await guest.removeRegion(region);
    const payload = regionPayload(region.gpa, region.sizeBytes, region.userAddress, 0);
    expect(await refused(guest, MESSAGE.REM_MEM_REG, payload)).toEqual([REGION]);
  });

  it('the region of the running rings taken away', async () => {
    const guest = await arena.guest({ slots: true, ringRegion: 1 });
    const region = guest.ram.regions[1]!;
    const payload = regionPayload(region.gpa, region.sizeBytes, region.userAddress, 0);
    expect(await refused(guest, MESSAGE.REM_MEM_REG, payload)).toEqual(['vring-address-unmapped']);
  });

  it('all memory taken away, and rings kicked', async () => {
    const guest = await arena.guest({ slots: true });
    for (const { index } of guest.rings) await guest.frontend.getVringBase(index);
    for (const region of guest.ram.regions) await guest.removeRegion(region);
    for (const ring of guest.rings) ring.kick();
    await guest.shareMemory();
    for (const ring of guest.rings) await guest.startRing(ring);
    await guest.read();
  });

  it('a region taken away under requests in flight: they complete first', async () => {
    const guest = await arena.guest({ slots: true, ringRegion: 0, queueSize: 64 });
    await guest.write(0, Buffer.alloc(64 * KiB, 0x31));
    for (let round = 0; round < 20; round++) {
      const requests = Array.from({ length: 15 }, () =>
        guest.submit(0, guest.place(BLK_TYPE.IN, 0, { inBytes: 64 * KiB })),
      );
      const region = guest.ram.regions[1]!;
      const left = guest.removeRegion(region);
      await left;
      // What was not taken before now points to memory that is gone, and breaks the ring.
      guest.reap(0);
      for (const request of requests) {
        if (request.usedBytes === undefined || guest.statusOf(request) !== 0) continue;
        expect(guest.dataOf(request).equals(Buffer.alloc(64 * KiB, 0x31))).toBe(true);
      }
      await guest.frontend.getVringBase(0);
      guest.reap(0);
      for (const request of requests) guest.release(request);
      guest.abandon();
      await guest.addRegion(region);
      guest.rings[0]!.reset();
      guest.rings[0]!.sawError();
      await guest.startRing(guest.rings[0]!);
      await guest.read();
    }
  });

  it(`${MAX_SLOTS} regions are served, one more is refused`, async () => {
    const guest = await arena.guest({ slots: true, memory: manyRegions(MAX_SLOTS), ringRegion: 0 });
    await guest.read();
    expect(
      await refused(guest, MESSAGE.ADD_MEM_REG, regionPayload(1024 * MiB, MiB, user, 0), [memfd()]),
    ).toEqual([REGION]);
  });

  it('a region added and taken away five hundred times under load', async () => {
    const guest = await arena.guest({ slots: true, ringRegion: 0 });
    const region = guest.ram.regions[1]!;
    for (let round = 0; round < 250; round++) {
      await guest.removeRegion(region);
      await guest.addRegion(region);
      if (round % 10 === 0) await guest.read();
    }
  });

  it('a slot whose memory is cut off after it was mapped', async () => {
    const guest = await arena.guest({ slots: true, ringRegion: 1 });
    await guest.read();
    const { faultsByName } = await arena.report();
    ftruncateSync(guest.ram.regions[1]!.fd, 0);
    guest.rings[0]!.kick();
    expect(await guest.frontend.closedByBackend()).toBe(true);
    expect(await arena.faultsSince(faultsByName)).toEqual(['memory-truncated']);
  });

  it('a slot that is cut off before anything touches it costs nothing until then', async () => {
    const guest = await arena.guest({ slots: true, ringRegion: 0, memory: manyRegions(3) });
    ftruncateSync(guest.ram.regions[2]!.fd, 0);
    // The header lies there: the device reads it.
    const { faultsByName } = await arena.report();
    const [ring] = guest.rings;
    const { gpa } = guest.ram.regions[2]!;
    ring!.split.submit([
      { gpa, lengthBytes: 16, writable: false },
      { gpa: guest.ram.allocate(1, 1, 0), lengthBytes: 1, writable: true },
    ]);
    ring!.publish();
    expect(await guest.frontend.closedByBackend()).toBe(true);
    expect(await arena.faultsSince(faultsByName)).toEqual(['memory-truncated']);
  });
});

describe('a hostile dirty log costs only its connection', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  const memfd = (sizeBytes: number) => arena.own(check('memfd', native.memfd('log', sizeBytes)));
  const LOG_ALL = bits(RING_FEATURE.LOG_ALL);

  /** Logging goes on, with the log in a file of its own. */
  const logged = async (
    log: { sizeBytes?: number; offset?: number; fileBytes?: number; usedLog?: number | bigint } = {},
  ): Promise<{ guest: RawGuest; fd: number }> => {
    const guest = await arena.guest();
    const { sizeBytes = 64 * KiB, offset = 0, fileBytes = 128 * KiB } = log;
    const fd = memfd(fileBytes);
    const { frontend } = guest;
    frontend.stream.send(MESSAGE.SET_LOG_BASE, u64(sizeBytes, offset), { fds: [fd] });
    await frontend.receiveReply(MESSAGE.SET_LOG_BASE);
    const [ring] = guest.rings;
    await frontend.setVringAddr(0, {
      ...guest.addressesOf(ring!),
      flags: 1,
      log: log.usedLog ?? ring!.driver.usedGpa,
    });
    await frontend.setFeatures(guest.features | LOG_ALL);
    return { guest, fd };
  };

  it('one of a single byte', async () => {
    const { guest } = await logged({ sizeBytes: 1 });
    for (let i = 0; i < 20; i++) await guest.read(8 * i);
  });

  it('one that begins at an odd byte', async () => {
    const { guest } = await logged({ sizeBytes: 1001, offset: 4097 });
    for (let i = 0; i < 20; i++) await guest.read(8 * i);
  });

  it.each([0xffff_ffff_ffff, 2 ** 52, 2 ** 53 - 1])(
    'one with the used ring logged at %i',
    async (usedLog) => {
      const { guest } = await logged({ usedLog });
      for (let i = 0; i < 20; i++) await guest.read(8 * i);
    },
  );

  it('one with the used ring logged at 2^64 - 1', async () => {
    expect(await arena.faultsOf(() => tolerate(logged({ usedLog: (1n << 64n) - 1n })))).toEqual([
      'number-too-large',
    ]);
  });

  it('one that is cut off while it is written', async () => {
    // Long enough for the guest's memory at 4 GiB.
    const { guest, fd } = await logged({ sizeBytes: 256 * KiB, fileBytes: 256 * KiB });
    await guest.read();
    const { faultsByName } = await arena.report();
    ftruncateSync(fd, 0);
    await tolerate(guest.read());
    expect(await guest.frontend.closedByBackend()).toBe(true);
    expect(await arena.faultsSince(faultsByName)).toEqual(['memory-truncated']);
  });

  it.each([
    ['of no bytes', u64(0, 0), 'memory-region-invalid'],
    ['beyond its file', u64(MiB, 0), 'memory-region-invalid'],
    ['at an offset beyond its file', u64(4096, MiB), 'memory-region-invalid'],
    ['of 2^64 - 1 bytes', u64((1n << 64n) - 1n, 0), 'number-too-large'],
    ['at an offset of 2^63', u64(4096, 1n << 63n), 'number-too-large'],
    ['of 2^53 - 1 bytes', u64(2 ** 53 - 1, 0), 'memory-region-invalid'],
  ])('one %s', async (_, payload, fault) => {
    const guest = await arena.guest();
    const fd = memfd(4096);
    const faults = await arena.faultsOf(async () => {
      guest.frontend.stream.send(MESSAGE.SET_LOG_BASE, payload, { fds: [fd] });
      expect(await guest.frontend.closedByBackend()).toBe(true);
    });
    expect(faults).toEqual([fault]);
  });

  it('one that is an eventfd, and one that is nothing', async () => {
    const eventfd = arena.own(check('eventfd', native.eventfd(EFD_NONBLOCK)));
    for (const [fds, fault] of [
      [[eventfd], 'descriptor-type-invalid'],
      [[], 'descriptor-count-invalid'],
    ] as const) {
      const guest = await arena.guest();
      const faults = await arena.faultsOf(async () => {
        guest.frontend.stream.send(MESSAGE.SET_LOG_BASE, u64(4096, 0), { fds: [...fds] });
        expect(await guest.frontend.closedByBackend()).toBe(true);
      });
      expect(faults).toEqual([fault]);
      guest.close();
    }
  });

  it('two hundred logs, one after the other, and as many log descriptors', async () => {
    const { guest } = await logged();
    for (let i = 0; i < 200; i++) {
      const fd = check('memfd', native.memfd('log', 64 * KiB));
      guest.frontend.stream.send(MESSAGE.SET_LOG_BASE, u64(64 * KiB, 0), { fds: [fd] });
      await guest.frontend.receiveReply(MESSAGE.SET_LOG_BASE);
      closeSync(fd);
      const event = check('eventfd', native.eventfd(EFD_NONBLOCK));
      await guest.frontend.tell(MESSAGE.SET_LOG_FD, undefined, [event]);
      closeSync(event);
      if (i % 20 === 0) await guest.read();
    }
  });

  it('switched on and off under load', async () => {
    const { guest } = await logged();
    for (let i = 0; i < 50; i++) {
      const request = guest.submit(0, guest.place(BLK_TYPE.IN, 0, { inBytes: 64 * KiB }));
      await guest.frontend.setFeatures(guest.features | (i % 2 ? LOG_ALL : 0n));
      expect(await guest.finish(request)).toBe(0);
      guest.release(request);
    }
  });

  it('messages of features that were not agreed upon', async () => {
    for (const code of [MESSAGE.SET_LOG_BASE, MESSAGE.SET_LOG_FD, MESSAGE.SET_STATUS, MESSAGE.GET_STATUS]) {
      const frontend = arena.connect();
      const payload =
        code === MESSAGE.SET_LOG_BASE ? u64(4096, 0) : code === MESSAGE.SET_STATUS ? u32(0, 0) : u64();
      const faults = await arena.faultsOf(async () => {
        frontend.stream.send(code, payload, { flags: FLAG.VERSION });
        expect(await frontend.closedByBackend()).toBe(true);
      });
      expect(faults).toEqual(['message-not-negotiated']);
    }
  });
});
