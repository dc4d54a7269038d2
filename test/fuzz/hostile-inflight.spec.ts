import { ftruncateSync, writeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { FLAG, MESSAGE, WRITEBACK_OFFSET } from '@cairn/vhost-user/testing';
import { BLK_TYPE } from '@cairn/virtio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { HostileArena, tolerate } from './hostile-arena.js';
import type { RawGuest, RawRequest } from './raw-guest.js';
import type { RawRing } from './raw-ring.js';
import { inflightBytes, u32 } from './wire-bytes.js';

// The record of requests in flight lies in memory that belongs to the front-end: whatever it says must cost no more
// than the ring that it is of. vhost-user, "Inflight I/O tracking", has the layouts:
//
//   split   u64 features, u16 version, u16 desc_num, u16 last_batch_head, u16 used_idx; from 16 on an entry of 16 bytes
//           a head: u8 inflight, 5 bytes, u16 next, u64 counter
//   packed  u64 features, u16 version, u16 desc_num, u16 free_head, u16 old_free_head, u16 used_idx, u16 old_used_idx,
//           u8 used_wrap, u8 old_used_wrap; from 32 on an entry of 32 bytes a descriptor: u8 inflight, 1 byte, u16 next,
//           u16 last, u16 num, u64 counter, u16 id, u16 flags, u32 len, u64 addr

const KiB = 1024;
const SIZE = 16;
const VERSION = 8;
const DESC_NUM = 10;
const U64_MAX = 2n ** 64n - 1n;

interface Forgery {
  name: string;
  packed: boolean;
  /** A request is in flight in the record, as if its back-end had died. */
  pending?: boolean;
  forge: (area: Buffer) => void;
  /** Name under which it is counted; default: that the record is invalid. */
  fault?: string;
}

/** Where an entry of the record begins. */
const entryAt = (packed: boolean, index: number): number => (packed ? 32 + 32 * index : 16 + 16 * index);

const both = (name: string, forge: (area: Buffer, packed: boolean) => void, pending = false): Forgery[] =>
  [false, true].map((packed) => ({
    name: `${packed ? 'packed' : 'split'}: ${name}`,
    packed,
    pending,
    forge: (area) => forge(area, packed),
  }));
const split = (name: string, forge: (area: Buffer) => void, fault?: string): Forgery => ({
  name: `split: ${name}`,
  packed: false,
  forge,
  ...(fault && { fault }),
});
const packed = (
  name: string,
  forge: (area: Buffer) => void,
  { pending = false, ...more }: Partial<Forgery> = {},
): Forgery => ({ name: `packed: ${name}`, packed: true, pending, forge, ...more });

/** What contradicts itself: the ring must be stopped for it. */
const forgeries: readonly Forgery[] = [
  ...[2, 3, 0x100, 0xffff].flatMap((version) =>
    both(`version ${version}`, (area) => area.writeUInt16LE(version, VERSION)),
  ),
  ...[0, 1, SIZE - 1, SIZE + 1, 2 * SIZE, 0xffff].flatMap((entries) =>
    both(`a record of ${entries} entries`, (area) => area.writeUInt16LE(entries, DESC_NUM)),
  ),
  ...[2n ** 52n, 2n ** 63n, U64_MAX].flatMap((counter) =>
    both(
      `a counter of ${counter}`,
      (area, isPacked) => {
        const at = [...Array(SIZE).keys()]
          .map((index) => entryAt(isPacked, index))
          .find((at) => area[at] === 1)!;
        area.writeBigUInt64LE(counter, at + 8);
      },
      true,
    ),
  ),
  // The last batch: as many heads as the ring's used index is ahead of the record's.
  split('a last batch with a head out of range', (area) => {
    area.writeUInt16LE(area.readUInt16LE(14) - 1, 14);
    area.writeUInt16LE(SIZE, 12);
  }),
  split('a last batch that leads out of range', (area) => {
    area.writeUInt16LE(area.readUInt16LE(14) - 3, 14);
    area.writeUInt16LE(0, 12);
    area.writeUInt16LE(0xffff, entryAt(false, 0) + 6);
  }),
  ...[SIZE, SIZE + 1, 0xffff].flatMap((slot) => [
    packed(`a used position at slot ${slot}`, (area) => area.writeUInt16LE(slot, 16)),
    packed(`a former used position at slot ${slot}`, (area) => area.writeUInt16LE(slot, 18)),
  ]),
  packed('a wrap counter of 2', (area) => area.writeUInt8(2, 20)),
  packed('a former wrap counter of 255', (area) => area.writeUInt8(255, 21)),
  packed('a free list that begins out of range', (area) => {
    for (const at of [12, 14]) area.writeUInt16LE(SIZE + 1, at);
  }),
  packed('a free list that leads out of range', (area) => {
    area.writeUInt16LE(0xfff0, entryAt(true, area.readUInt16LE(14)) + 2);
  }),
  packed('a free list that never ends', (area) => {
    const head = area.readUInt16LE(14);
    area.writeUInt16LE(head, entryAt(true, head) + 2);
  }),
  packed('a free list without some entries', (area) => {
    for (const at of [12, 14]) area.writeUInt16LE(SIZE, at);
  }),
  packed('a chain of no descriptors', (area) => area.writeUInt16LE(0, inFlightAt(area) + 6), {
    pending: true,
  }),
  packed('a chain longer than the ring', (area) => area.writeUInt16LE(SIZE + 1, inFlightAt(area) + 6), {
    pending: true,
  }),
  packed('a chain that leads out of range', (area) => area.writeUInt16LE(0x7fff, inFlightAt(area) + 2), {
    pending: true,
  }),
  packed(
    'a chain that goes round',
    (area) => {
      area.writeUInt16LE((inFlightAt(area) - 32) / 32, inFlightAt(area) + 2);
    },
    { pending: true },
  ),
  packed(
    'a chain that runs into the free list',
    (area) => {
      area.writeUInt16LE(area.readUInt16LE(14), inFlightAt(area) + 2);
    },
    { pending: true },
  ),
  packed(
    'a chain with fewer descriptors than its flags say',
    (area) => {
      area.writeUInt16LE(1, inFlightAt(area) + 6);
    },
    { pending: true },
  ),
  packed('a buffer outside of memory', (area) => area.writeBigUInt64LE(2n ** 46n, inFlightAt(area) + 24), {
    pending: true,
    fault: 'descriptor-outside-memory',
  }),
  packed('a buffer of no bytes', (area) => area.writeUInt32LE(0, inFlightAt(area) + 20), {
    pending: true,
    fault: 'descriptor-empty',
  }),
  packed('a table that is followed by a descriptor', (area) => area.writeUInt16LE(5, inFlightAt(area) + 18), {
    pending: true,
    fault: 'indirect-with-next',
  }),
  split(
    'every head in flight, of which there is nothing',
    (area) => {
      for (let index = 0; index < SIZE; index += 1) area.writeUInt8(1, entryAt(false, index));
    },
    'header-too-short',
  ),
  packed('the free list’s first entry in flight, too', (area) => {
    const head = area.readUInt16LE(14);
    for (const at of [12, 14]) area.writeUInt16LE(area.readUInt16LE(entryAt(true, head) + 2), at);
    area.writeUInt8(1, entryAt(true, head));
  }),
];

const inFlightAt = (area: Buffer): number => {
  for (let index = 0; index < SIZE; index += 1) {
    const at = entryAt(true, index);
    if (area[at] === 1) return at;
  }
  throw new Error('nothing is in flight in the record');
};

/** Puts a published request into the record of a ring that nobody runs, as a back-end that died with it would have. */
const noteInFlight = (guest: RawGuest, ring: RawRing, request: RawRequest): void =>
  guest.forgeInflight(ring, (area) => {
    if (!guest.options.packed) {
      area.writeUInt8(1, entryAt(false, request.head));
      area.writeBigUInt64LE(1000n, entryAt(false, request.head) + 8);
      return;
    }
    const head = area.readUInt16LE(14);
    let entry = head;
    let last = head;
    request.pieces.forEach(({ gpa, lengthBytes, writable }, index) => {
      const at = entryAt(true, entry);
      const more = index < request.pieces.length - 1;
      area.writeUInt16LE(request.head, at + 16);
      area.writeUInt16LE((writable ? 2 : 0) | (more ? 1 : 0), at + 18);
      area.writeUInt32LE(lengthBytes, at + 20);
      area.writeBigUInt64LE(BigInt(gpa), at + 24);
      last = entry;
      entry = area.readUInt16LE(at + 2);
    });
    area.writeUInt8(1, entryAt(true, head));
    area.writeUInt16LE(last, entryAt(true, head) + 4);
    area.writeUInt16LE(request.pieces.length, entryAt(true, head) + 6);
    area.writeBigUInt64LE(1000n, entryAt(true, head) + 8);
    for (const at of [12, 14]) area.writeUInt16LE(entry, at);
  });

describe('a forged record of requests in flight costs only its ring', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  /** A guest that was served and has gone; its record says that nothing is in flight. */
  const gone = async (isPacked: boolean): Promise<{ guest: RawGuest; ring: RawRing }> => {
    const guest = await arena.guest({ packed: isPacked, inflight: true, numQueues: 2, queueSize: SIZE });
    for (let index = 0; index < 5; index += 1) await guest.read(index);
    await guest.read(0, 4096, 1);
    guest.frontend.close();
    await expect.poll(async () => (await arena.report()).connected).toBe(false);
    return { guest, ring: guest.rings[0]! };
  };

  const submit = (guest: RawGuest, ring: RawRing): RawRequest =>
    guest.submit(ring.index, guest.place(BLK_TYPE.IN, 0, { inBytes: 4 * KiB }));

  it.each(forgeries)('$name', async ({ packed: isPacked, pending, forge, fault = 'inflight-invalid' }) => {
    const { guest, ring } = await gone(isPacked);
    const request = pending ? submit(guest, ring) : undefined;
    if (request) noteInFlight(guest, ring, request);
    guest.forgeInflight(ring, forge);
    expect(await arena.faultsOf(() => guest.reconnect())).toEqual([fault]);
    expect(ring.sawError()).toBe(true);
    await guest.read(0, 4096, 1);
    // The driver resets the ring, which makes the record a new one.
    await guest.frontend.getVringBase(0);
    guest.abandon(0);
    ring.reset();
    await guest.startRing(ring);
    await guest.read();
  });

  it.each([
    ['split', false],
    ['packed', true],
  ])('%s: what an honest record holds is answered, once', async (_, isPacked) => {
    const { guest, ring } = await gone(isPacked);
    const request = submit(guest, ring);
    noteInFlight(guest, ring, request);
    expect(await arena.faultsOf(() => guest.reconnect())).toEqual([]);
    expect(await guest.finish(request)).toBe(0);
    await guest.read();
  });

  it.each([
    ['split', false],
    ['packed', true],
  ])('%s: and before the ring may be stopped again', async (_, isPacked) => {
    const { guest, ring } = await gone(isPacked);
    const request = submit(guest, ring);
    noteInFlight(guest, ring, request);
    await guest.reconnect(guest.rings.slice(1));
    await guest.startRing(ring, { enabled: false });
    // Enabled and stopped in one packet, so that nothing can be taken in between.
    const message = (code: number, value: number) => u32(code, FLAG.VERSION, 8, ring.index, value);
    guest.frontend.stream.sendBytes(
      Buffer.concat([message(MESSAGE.SET_VRING_ENABLE, 1), message(MESSAGE.GET_VRING_BASE, 0)]),
    );
    const { payload } = await guest.frontend.receiveReply(MESSAGE.GET_VRING_BASE);
    guest.reap();
    expect(request.usedBytes).toBe(4 * KiB + 1);
    expect(payload.readUInt32LE(4)).toBe(ring.base);
    await guest.startRing(ring);
    await guest.read();
  });

  it('changed at random while its ring runs', async () => {
    for (const isPacked of [false, true]) {
      const guest = await arena.guest({ packed: isPacked, inflight: true, queueSize: 64 });
      const [ring] = guest.rings;
      for (let round = 0; round < 50; round += 1) {
        const requests = Array.from({ length: 8 }, () => submit(guest, ring!));
        guest.forgeInflight(ring!, (area) => {
          for (let at = 0; at < area.length; at += 1) area[at] = (at * 2_654_435_761 * (round + 1)) >>> 13;
        });
        for (const request of requests) {
          expect(await guest.finish(request)).toBe(0);
          guest.release(request);
        }
      }
      guest.close();
    }
  });

  it('a split ring’s given to a packed one, and the other way about', async () => {
    for (const isPacked of [false, true]) {
      const { guest } = await gone(isPacked);
      const { inflight } = guest;
      guest.frontend.close();
      const other = await arena.guest({ packed: !isPacked, numQueues: 1, queueSize: SIZE });
      await other.frontend.getVringBase(0);
      const payload = inflightBytes(inflight!.sizeBytes, 0, isPacked ? 2 : 1, SIZE);
      await tolerate(other.frontend.tell(MESSAGE.SET_INFLIGHT_FD, payload, [inflight!.fd]));
      await tolerate(other.startRing(other.rings[0]!));
      other.close();
      guest.close();
    }
  });
});

describe('a hostile in-flight area costs only its connection', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  const memfd = (sizeBytes: number) => arena.own(check('memfd', native.memfd('area', sizeBytes)));

  /** A guest with stopped rings, so that an area may be given. */
  const stopped = async (): Promise<RawGuest> => {
    const guest = await arena.guest({ numQueues: 1, queueSize: SIZE });
    await guest.frontend.getVringBase(0);
    return guest;
  };

  it.each([
    ['of no bytes', inflightBytes(0, 0, 1, SIZE), 'memory-region-invalid'],
    ['larger than its file', inflightBytes(64 * KiB, 0, 1, SIZE), 'memory-region-invalid'],
    ['past the end of its file', inflightBytes(4 * KiB, 4 * KiB, 1, SIZE), 'memory-region-invalid'],
    ['too small for its rings', inflightBytes(4 * KiB, 0, 2, 1024), 'memory-region-invalid'],
    ['for no ring', inflightBytes(4 * KiB, 0, 0, SIZE), 'memory-region-invalid'],
    ['for more rings than there are', inflightBytes(4 * KiB, 0, 3, SIZE), 'memory-region-invalid'],
    ['for rings of no entries', inflightBytes(4 * KiB, 0, 1, 0), 'memory-region-invalid'],
    ['for rings of 65535 entries', inflightBytes(4 * KiB, 0, 1, 0xffff), 'memory-region-invalid'],
    ['of 2^64 - 1 bytes', inflightBytes(U64_MAX, 0, 1, SIZE), 'number-too-large'],
  ])('one %s', async (_, payload, fault) => {
    const guest = await stopped();
    const give = () => tolerate(guest.frontend.tell(MESSAGE.SET_INFLIGHT_FD, payload, [memfd(4 * KiB)]));
    expect(await arena.faultsOf(give)).toEqual([fault]);
    expect(await guest.frontend.closedByBackend()).toBe(true);
  });

  it.each([
    ['for more rings than there are', inflightBytes(0, 0, 3, SIZE)],
    ['for no ring', inflightBytes(0, 0, 0, SIZE)],
    ['for rings of 65535 entries', inflightBytes(0, 0, 1, 0xffff)],
  ])('one asked for %s', async (_, payload) => {
    const guest = await stopped();
    const ask = () => tolerate(guest.frontend.ask(MESSAGE.GET_INFLIGHT_FD, payload));
    expect(await arena.faultsOf(ask)).toEqual(['memory-region-invalid']);
  });

  it('one without a descriptor, and one that is an eventfd', async () => {
    const eventfd = arena.own(check('eventfd', native.eventfd(0)));
    for (const [fds, fault] of [
      [[], 'descriptor-count-invalid'],
      [[eventfd], 'descriptor-type-invalid'],
    ] as const) {
      const guest = await stopped();
      const payload = inflightBytes(4 * KiB, 0, 1, SIZE);
      const give = () => tolerate(guest.frontend.tell(MESSAGE.SET_INFLIGHT_FD, payload, fds));
      expect(await arena.faultsOf(give)).toEqual([fault]);
      guest.close();
    }
  });

  it.each(['before it is given', 'before its ring starts', 'while its ring runs'])(
    'one that is cut off %s',
    async (when) => {
      const guest = await stopped();
      const fd = memfd(4 * KiB);
      const payload = inflightBytes(4 * KiB, 0, 1, SIZE);
      const faults = await arena.faultsOf(async () => {
        if (when === 'before it is given') ftruncateSync(fd, 0);
        await tolerate(guest.frontend.tell(MESSAGE.SET_INFLIGHT_FD, payload, [fd]));
        if (when === 'before its ring starts') ftruncateSync(fd, 0);
        await tolerate(guest.startRing(guest.rings[0]!));
        if (when === 'while its ring runs') {
          await guest.read();
          ftruncateSync(fd, 0);
          guest.submit(0, guest.place(BLK_TYPE.IN, 0, { inBytes: 512 }));
        }
        expect(await guest.frontend.closedByBackend()).toBe(true);
      });
      expect(faults).toEqual([when === 'before it is given' ? 'memory-region-invalid' : 'memory-truncated']);
    },
  );

  it('one for smaller rings than the guest’s is not used', async () => {
    const guest = await stopped();
    const fd = memfd(4 * KiB);
    await guest.frontend.tell(MESSAGE.SET_INFLIGHT_FD, inflightBytes(4 * KiB, 0, 1, SIZE / 2), [fd]);
    await guest.startRing(guest.rings[0]!);
    await guest.read();
    // What the driver has set is kept at the end of the area, behind the records.
    const record = new Uint8Array(entryAt(false, SIZE / 2));
    const address = check('mapShared', native.mapShared(fd, 0, 4 * KiB));
    native.peek(address, record, 0, record.length);
    native.unmap(address, 4 * KiB);
    expect(record.every((byte) => byte === 0)).toBe(true);
  });

  it.each([0, 1, 2, 0xffff_ffff])('one that says of the driver that it has set %i', async (state) => {
    const guest = await stopped();
    const fd = memfd(4 * KiB);
    const kept = u32(0x4e52_4941, state);
    writeSync(fd, kept, 0, kept.length, 4 * KiB - 64);
    await guest.frontend.tell(MESSAGE.SET_INFLIGHT_FD, inflightBytes(4 * KiB, 0, 1, SIZE), [fd]);
    const [writeback] = await guest.frontend.getConfig(WRITEBACK_OFFSET, 1);
    expect(writeback).toBe(state === 0 ? 0 : 1);
    await guest.startRing(guest.rings[0]!);
    await guest.write(0, Buffer.alloc(4 * KiB, 0x77));
    expect((await guest.read()).every((byte) => byte === 0x77)).toBe(true);
  });

  it('two hundred areas, one after the other', async () => {
    const guest = await stopped();
    for (let round = 0; round < 200; round += 1) {
      const payload = inflightBytes(4 * KiB, 0, 1, SIZE);
      await guest.frontend.tell(MESSAGE.SET_INFLIGHT_FD, payload, [memfd(4 * KiB)]);
      await guest.frontend.ask(MESSAGE.GET_INFLIGHT_FD, inflightBytes(0, 0, 2, SIZE)).then(({ fds }) => {
        for (const fd of fds) arena.own(fd);
      });
    }
    await guest.startRing(guest.rings[0]!);
    await guest.read();
  });
});
