import { setImmediate, setTimeout } from 'node:timers/promises';
import {
  BLK_TYPE,
  bits,
  DESC,
  type FakePackedDriver,
  type GuestRam,
  PACKED_DESC,
  type PackedDescriptor,
  RING_FEATURE,
} from '@cairn/virtio/testing';
import { pollUntil, TimedOut } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { HostileArena } from './hostile-arena.js';
import type { RawGuest, RawGuestOptions } from './raw-guest.js';
import type { RawRing } from './raw-ring.js';

const SIZE = 16;
const RAM_END = 0x1_0040_0000;
const HOLE = 0x4000_0000;

/** What a hostile driver has at hand: a running packed ring and the parts of one request. */
interface Stage {
  guest: RawGuest;
  ring: RawRing;
  driver: FakePackedDriver;
  ram: GuestRam;
  /** A valid read of sector 0: header, 512 bytes of data, status. */
  header: PackedDescriptor;
  data: PackedDescriptor;
  status: PackedDescriptor;
}

interface Attack {
  name: string;
  /** Name under which it is counted; undefined: it may be taken, or stop the ring. */
  fault?: string;
  options?: RawGuestOptions;
  run: (stage: Stage) => void | Promise<void>;
}

/** Offers a chain as it is; its head becomes available last, as the device may be looking. */
const offer = ({ driver, ring }: Stage, ...descriptors: PackedDescriptor[]): void => {
  const { slot, wrap } = driver.nextAvail;
  const [head, ...others] = descriptors;
  driver.offerRaw({ ...head!, flags: head!.flags | PACKED_DESC.AVAIL | PACKED_DESC.USED }, ...others);
  driver.setFlags(slot, head!.flags | (wrap ? PACKED_DESC.AVAIL : PACKED_DESC.USED));
  ring.kick();
};

/** Puts entries into an indirect table and offers it; `more` is the outer descriptor's. */
const offerTable = (
  stage: Stage,
  entries: PackedDescriptor[],
  more: Partial<PackedDescriptor> = {},
  shift = 0,
): void => {
  const { driver, ram } = stage;
  const table = ram.allocate(16 * entries.length + 16, 16) + shift;
  entries.forEach((entry, index) => driver.writeDescriptorAt(table + 16 * index, entry));
  offer(stage, { gpa: table, lengthBytes: 16 * entries.length, id: 3, flags: DESC.INDIRECT, ...more });
};

const whole = ({ header, data, status }: Stage): PackedDescriptor[] => [header, data, status];

/** One thing at an address where there is no guest memory. */
const outside = (where: string, gpa: number | bigint, lengthBytes: number): Attack[] => [
  {
    name: `a data buffer ${where}`,
    fault: 'descriptor-outside-memory',
    run: (s) => offer(s, s.header, { ...s.data, gpa, lengthBytes }, s.status),
  },
  {
    name: `a header ${where}`,
    fault: 'descriptor-outside-memory',
    run: (s) => offer(s, { ...s.header, gpa, lengthBytes }, s.data, s.status),
  },
  {
    name: `a status byte ${where}`,
    fault: 'descriptor-outside-memory',
    run: (s) => offer(s, s.header, s.data, { ...s.status, gpa, lengthBytes }),
  },
  {
    name: `an indirect table ${where}`,
    fault: 'descriptor-outside-memory',
    run: (s) => offer(s, { gpa, lengthBytes: 48, id: 0, flags: DESC.INDIRECT }),
  },
];

const attacks: Attack[] = [
  // virtio 1.2 §2.8.6: buffer ids
  ...[SIZE, SIZE + 1, 0x7fff, 0xffff].map((id): Attack => ({
    name: `buffer id ${id}`,
    fault: 'head-out-of-range',
    run: (s) => offer(s, s.header, s.data, { ...s.status, id }),
  })),
  {
    name: 'a buffer id that is in flight',
    fault: 'head-in-flight',
    run: (s) => {
      offer(s, ...whole(s), ...whole(s));
    },
  },
  {
    name: 'the whole ring at once, all of one id',
    fault: 'head-in-flight',
    run: (s) => {
      offer(s, ...Array.from({ length: SIZE / 2 }, () => [s.header, { ...s.status, id: 7 }]).flat());
    },
  },
  {
    name: 'a wrong id in every descriptor but the last',
    run: (s) => offer(s, { ...s.header, id: 0xffff }, { ...s.data, id: 0x8000 }, s.status),
  },

  // virtio 1.2 §2.8.6, §2.8.17: lists
  {
    name: 'a list that goes on where nothing is available',
    fault: 'descriptor-not-available',
    run: (s) => offer(s, s.header, s.data),
  },
  {
    name: 'a list as long as the ring that never ends',
    fault: 'descriptor-not-available',
    run: (s) => offer(s, ...Array.from({ length: SIZE }, () => ({ ...s.header, lengthBytes: 1 }))),
  },
  {
    name: 'all descriptors available at once, with flags of both laps',
    run: (s) => {
      const { driver, ring } = s;
      for (let slot = 0; slot < SIZE; slot++)
        driver.writeDescriptor(slot, { ...s.header, flags: slot % 2 ? PACKED_DESC.AVAIL : PACKED_DESC.USED });
      ring.kick();
    },
  },
  {
    name: 'AVAIL and USED set in all descriptors',
    run: (s) => {
      const { driver, ring } = s;
      for (let slot = 0; slot < SIZE; slot++) driver.setFlags(slot, 0xffff);
      for (let slot = 0; slot < SIZE; slot++) driver.setFlags(slot, 0);
      ring.kick();
    },
  },
  {
    name: 'the wrong wrap counter in the middle of a list',
    fault: 'descriptor-not-available',
    run: (s) => {
      const wrong = s.driver.nextAvail.wrap ? PACKED_DESC.USED : PACKED_DESC.AVAIL;
      const clear = PACKED_DESC.AVAIL | PACKED_DESC.USED;
      // AVAIL and USED alike: of no lap, or of the one before.
      offer(s, s.header, { ...s.data, flags: s.data.flags | wrong | clear }, s.status);
    },
  },
  {
    name: 'a lap that is overtaken: slots offered again before they are used',
    run: async (s) => {
      for (let i = 0; i < 3 * SIZE; i++) {
        s.driver.offerRaw(s.header, { ...s.status, id: i % SIZE });
        s.ring.kick();
        if (i % 4 === 0) await setImmediate();
      }
    },
  },
  {
    name: 'an empty descriptor',
    fault: 'descriptor-empty',
    run: (s) => offer(s, s.header, { ...s.data, lengthBytes: 0 }, s.status),
  },
  {
    name: 'a data descriptor of 2^32 - 1 bytes',
    fault: 'descriptor-outside-memory',
    run: (s) => offer(s, s.header, { ...s.data, lengthBytes: 0xffff_ffff }, s.status),
  },
  {
    name: 'device-writable before device-readable',
    fault: 'readable-after-writable',
    run: (s) => offer(s, s.data, s.header, s.status),
  },
  { name: 'no status byte', fault: 'status-missing', run: (s) => offer(s, { ...s.header, flags: 0 }) },
  {
    name: 'a header of 8 bytes',
    fault: 'header-too-short',
    run: (s) => offer(s, { ...s.header, lengthBytes: 8 }, s.data, s.status),
  },
  { name: 'nothing but a status byte', fault: 'header-too-short', run: (s) => offer(s, s.status) },
  {
    name: 'every reserved descriptor flag',
    run: (s) => offer(s, { ...s.header, flags: DESC.NEXT | 0x7f78 }, s.data, s.status),
  },

  // virtio 1.2 §2.8.7: indirect tables
  {
    name: 'an indirect table after a direct descriptor',
    fault: 'indirect-with-next',
    run: (s) => offer(s, s.header, { ...s.data, lengthBytes: 48, flags: DESC.INDIRECT }),
  },
  {
    name: 'INDIRECT together with NEXT',
    fault: 'indirect-with-next',
    run: (s) => offerTable(s, whole(s), { flags: DESC.INDIRECT | DESC.NEXT }),
  },
  {
    name: 'an indirect table without the feature',
    fault: 'indirect-not-negotiated',
    options: { without: bits(RING_FEATURE.INDIRECT_DESC) },
    run: (s) => offerTable(s, whole(s)),
  },
  {
    name: 'an indirect table in an indirect table',
    run: (s) => offerTable(s, [{ ...s.data, lengthBytes: 48, flags: DESC.INDIRECT }]),
  },
  ...[0, 1, 8, 15, 17, 47].map((lengthBytes): Attack => ({
    name: `an indirect table of ${lengthBytes} bytes`,
    fault: 'indirect-size-invalid',
    run: (s) => offerTable(s, whole(s), { lengthBytes }),
  })),
  {
    name: 'an indirect table of 2^28 entries',
    fault: 'chain-too-long',
    run: (s) => offerTable(s, whole(s), { lengthBytes: 0xffff_fff0 }),
  },
  {
    name: 'an indirect table of 2000 entries',
    fault: 'chain-too-long',
    run: (s) => offerTable(s, [s.header, ...Array.from({ length: 1998 }, () => s.data), s.status]),
  },
  ...[1, 2, 4, 8].map((shift): Attack => ({
    name: `an indirect table ${shift} bytes off its alignment`,
    run: (s) => offerTable(s, whole(s), {}, shift),
  })),
  {
    name: 'a list of more than 2^32 bytes',
    fault: 'chain-too-large',
    options: { memory: [{ gpa: 0x1_0000_0000, sizeBytes: 0x80_0000 }] },
    run: (s) => {
      const huge = { ...s.data, gpa: 0x1_0000_0000, lengthBytes: 0x80_0000 };
      offerTable(s, [s.header, ...Array.from({ length: 600 }, () => huge), s.status]);
    },
  },

  // addresses
  ...outside('in the hole between the regions', HOLE, 512),
  ...outside('at the very end of memory', RAM_END, 512),
  ...outside('across the end of the low region', 0x10_0000 - 8, 512),
  ...outside('at 2^63', 1n << 63n, 512),
  ...outside('at the last address, wrapping', (1n << 64n) - 8n, 512),

  // virtio 1.2 §2.8.10: event suppression
  ...[
    [0, 3],
    [0xffff, 2],
    [SIZE, 2],
    [0x7fff, 2],
    [0x8000 | SIZE, 2],
    [0x1234, 0xffff],
  ].map(([offset, flags]): Attack => ({
    name: `an event of offset ${offset} and flags ${flags}`,
    run: async (s) => {
      for (let i = 0; i < 2; i++) {
        s.driver.setDriverEvent(flags!, offset!);
        offer(s, ...whole(s).map((descriptor) => ({ ...descriptor, id: i })));
        await setTimeout(5);
      }
    },
  })),
  {
    name: "the device's own event area written over",
    run: async (s) => {
      s.ram.bytes(s.driver.usedGpa, 4).fill(0xff);
      offer(s, ...whole(s));
      s.ram.bytes(s.driver.usedGpa, 4).fill(0xa5);
      await setTimeout(5);
    },
  },

  // double fetches
  {
    name: 'descriptors that change while the device reads them',
    run: async (s) => {
      const { driver, ring } = s;
      for (let i = 0; i < 2_000 && !ring.sawError(); i++) {
        const { slot } = driver.nextAvail;
        offer(s, ...whole(s).map((descriptor) => ({ ...descriptor, id: i % SIZE })));
        for (let spin = 0; spin < 20; spin++) {
          driver.writeDescriptor((slot + 1) % SIZE, {
            gpa: (1n << 47n) - 4096n,
            lengthBytes: 0xffff_ffff,
            id: 0xffff,
            flags: 0xffff,
          });
          driver.writeDescriptor((slot + 1) % SIZE, s.data);
        }
        if (i % 50 === 0) await setImmediate();
      }
    },
  },
  {
    name: 'used descriptors that the driver writes over while the device uses them',
    run: async (s) => {
      for (let i = 0; i < 200; i++) {
        offer(s, ...whole(s).map((descriptor) => ({ ...descriptor, id: i % SIZE })));
        s.ram.bytes(s.driver.descGpa, 16 * SIZE).fill(i & 1 ? 0xff : 0x00);
        if (i % 20 === 0) await setImmediate();
      }
    },
  },
];

describe('a hostile driver of a packed ring costs only its own ring', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  const stageOf = (guest: RawGuest): Stage => {
    const { ram } = guest;
    const [ring] = guest.rings;
    const header = ram.allocate(16, 16);
    ram.setU32(header, BLK_TYPE.IN);
    ram.setU64(header + 8, 0);
    const id = 0;
    return {
      guest,
      ring: ring!,
      driver: ring!.packed,
      ram,
      header: { gpa: header, lengthBytes: 16, id, flags: DESC.NEXT },
      data: { gpa: ram.allocate(4096, 4096), lengthBytes: 512, id, flags: DESC.NEXT | DESC.WRITE },
      status: { gpa: ram.allocate(1, 1), lengthBytes: 1, id, flags: DESC.WRITE },
    };
  };

  const isStopped = async (ring: RawRing, timeoutMs: number): Promise<boolean> => {
    try {
      return await pollUntil('the err eventfd', () => ring.sawError() || undefined, {
        timeoutMs,
        fd: () => ring.errFd,
      });
    } catch (error) {
      if (error instanceof TimedOut) return false;
      throw error;
    }
  };

  it.each(attacks)('$name', async ({ fault, options, run }) => {
    const guest = await arena.guest({ packed: true, queueSize: SIZE, ...options });
    const stage = stageOf(guest);
    const { faultsByName } = await arena.report();
    await run(stage);
    const stopped = await isStopped(stage.ring, fault === undefined ? 50 : 3_000);
    const faults = await arena.faultsSince(faultsByName);
    if (fault !== undefined) expect({ stopped, faults }).toEqual({ stopped: true, faults: [fault] });
    // The other ring of the same guest goes on.
    await guest.read(0, 4096, 1);
    await arena.checkInnocent();
  });

  it('a ring size that is no power of two is served (virtio 1.2 §2.8)', async () => {
    const guest = await arena.guest({ packed: true, queueSize: 21, numQueues: 1 });
    for (let i = 0; i < 50; i++) await guest.write(8 * i, Buffer.alloc(4096, i));
    for (let i = 0; i < 50; i++) expect((await guest.read(8 * i)).equals(Buffer.alloc(4096, i))).toBe(true);
  });

  it.each([0, 32_769, 0x8000_0000])('a ring of %i descriptors is refused', async (size) => {
    const guest = await arena.guest({ packed: true, numQueues: 1 });
    await guest.frontend.getVringBase(0);
    expect(await arena.faultsOf(() => guest.frontend.setVringNum(0, size).catch(() => undefined))).toEqual([
      'vring-size-invalid',
    ]);
  });

  it.each([
    ['an avail slot outside the ring', SIZE | 0x8000],
    ['a used slot outside the ring', (0x8000 + (SIZE << 16)) >>> 0],
    ['positions more than a ring apart', (0x8003 + 0x8005 * 0x1_0000) >>> 0],
    ['the highest number there is', 0xffff_ffff],
  ])('a base of %s breaks the ring', async (_, base) => {
    const guest = await arena.guest({ packed: true, queueSize: SIZE });
    const [ring] = guest.rings;
    await guest.frontend.getVringBase(0);
    const { faultsByName } = await arena.report();
    await guest.frontend.setVringBase(0, base);
    await guest.frontend.setVringErr(0, ring!.errFd);
    await guest.frontend.setVringKick(0, ring!.kickFd);
    ring!.kick();
    expect(await isStopped(ring!, 3_000)).toBe(true);
    expect(await arena.faultsSince(faultsByName)).toEqual(['ring-base-invalid']);
    await guest.read(0, 4096, 1);
  });

  it('a broken ring is started again after the driver has reset it', async () => {
    const guest = await arena.guest({ packed: true, queueSize: SIZE });
    const [ring] = guest.rings;
    ring!.packed.offerRaw({ gpa: 0, lengthBytes: 1, id: 0xffff, flags: 0 });
    ring!.kick();
    expect(await isStopped(ring!, 3_000)).toBe(true);
    for (let i = 0; i < 20; i++) {
      await guest.frontend.getVringBase(0);
      ring!.reset();
      await guest.startRing(ring!);
      await guest.read();
    }
  });
});
