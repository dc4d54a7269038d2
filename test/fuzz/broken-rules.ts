import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { constants } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { check, native } from '@cairn/native';
import { FLAG, MESSAGE, PROTOCOL_FEATURE, regionBytes } from '@cairn/vhost-user/testing';
import { BLK_TYPE, bits, DESC, FakeDriver, RING_FEATURE, type Segment } from '@cairn/virtio/testing';
import type { Random } from '../support/random.js';
import { tolerate } from './hostile-arena.js';
import type { ModelGuest } from './model-guest.js';
import { inflightBytes, type RawRing, u32, u64 } from './raw-guest.js';

// What a guest or its front-end may do wrong, one rule at a time, with the name under which that must be counted. The
// rest of what it does is right.

/** A rule that somebody breaks, and what that must cost. */
export interface BrokenRule {
  name: string;
  fault: string;
  costs: 'ring' | 'connection';
  /** Is it a rule for a guest with this set-up? Default: for any. */
  concerns?: (guest: ModelGuest) => boolean;
  /** Breaks it; the ring is one that runs. */
  break: (guest: ModelGuest, ring: RawRing, random: Random) => void | Promise<void>;
}

const isPacked = ({ raw }: ModelGuest): boolean => raw.options.packed ?? false;
const isSplit = (guest: ModelGuest): boolean => !isPacked(guest);
const hasTables = ({ raw }: ModelGuest): boolean => raw.has(RING_FEATURE.INDIRECT_DESC);

/** Where there is no guest memory: between the regions, past them, and where an end would wrap. */
const NOWHERE = [0x20_0000, 0xffff_f000, 0x1_4000_0000, 2 ** 46, 2n ** 63n, 2n ** 64n - 4096n] as const;

// ---- rings: a valid read of which something is changed before the device sees it ----------------------------------

/** The descriptors of a chain as they lie in guest memory, in order; their fields can be changed until `publish`. */
class Chain {
  constructor(
    private readonly guest: ModelGuest,
    private readonly at: readonly number[],
  ) {}

  get length(): number {
    return this.at.length;
  }

  setAddress(index: number, gpa: number | bigint): void {
    this.guest.raw.ram.setU64(this.at[index]!, gpa);
  }

  setLength(index: number, lengthBytes: number): void {
    this.guest.raw.ram.setU32(this.at[index]! + 8, lengthBytes);
  }

  /** Not of the first descriptor of a packed chain: its flags are written when the chain is published. */
  flipFlags(index: number, flags: number): void {
    const at = this.at[index]! + (isPacked(this.guest) ? 14 : 12);
    this.guest.raw.ram.setU16(at, this.guest.raw.ram.getU16(at) ^ flags);
  }

  /** Follow-up descriptor of a split chain, buffer id of a packed one. */
  setNextOrId(index: number, value: number): void {
    this.guest.raw.ram.setU16(this.at[index]! + (isPacked(this.guest) ? 12 : 14), value);
  }

  nextOrId(index: number): number {
    return this.guest.raw.ram.getU16(this.at[index]! + (isPacked(this.guest) ? 12 : 14));
  }
}

const pieces = ({ raw }: ModelGuest, type: number): Segment[] =>
  type === BLK_TYPE.OUT
    ? raw.place(type, 0, { out: new Uint8Array(512) })
    : raw.place(type, 0, { inBytes: 512 });

/** Submits a direct chain of three descriptors (header, data, status), not yet shown to the device. */
const directChain = async (guest: ModelGuest, ring: RawRing, type: number = BLK_TYPE.IN): Promise<Chain> => {
  await guest.roomFor(ring, 4);
  const { driver } = ring;
  if (driver instanceof FakeDriver) {
    const { head } = guest.raw.submit(ring.index, pieces(guest, type), { show: false });
    const at = [driver.descGpa + 16 * head];
    for (let index = 0; index < 2; index += 1)
      at.push(driver.descGpa + 16 * guest.raw.ram.getU16(at[index]! + 14));
    return new Chain(guest, at);
  }
  const { slot } = driver.nextAvail;
  guest.raw.submit(ring.index, pieces(guest, type), { show: false });
  return new Chain(
    guest,
    [0, 1, 2].map((index) => driver.descGpa + 16 * ((slot + index) % driver.size)),
  );
};

/** Submits the same in an indirect table; the chain is the table's entries, `outer` the one that points there. */
const tableChain = async (guest: ModelGuest, ring: RawRing): Promise<{ outer: Chain; entries: Chain }> => {
  await guest.roomFor(ring, 1);
  const { driver } = ring;
  const slot = driver instanceof FakeDriver ? undefined : driver.nextAvail.slot;
  const { head } = guest.raw.submit(ring.index, pieces(guest, BLK_TYPE.IN), {
    indirectAfter: 0,
    show: false,
  });
  const outer = driver.descGpa + 16 * (slot ?? head);
  const { ram } = guest.raw;
  const table = ram.getU32(outer) + ram.getU32(outer + 4) * 2 ** 32;
  return {
    outer: new Chain(guest, [outer]),
    entries: new Chain(
      guest,
      [0, 16, 32].map((at) => table + at),
    ),
  };
};

type Spoil = (chain: Chain, random: Random, ring: RawRing) => void;

const direct = (
  name: string,
  fault: string,
  spoil: Spoil,
  more: Partial<BrokenRule> & { type?: number } = {},
): BrokenRule => ({
  name,
  fault,
  costs: 'ring',
  break: async (guest, ring, random) => {
    spoil(await directChain(guest, ring, more.type), random, ring);
    ring.publish();
    ring.kick();
  },
  ...more,
});

const table = (
  name: string,
  fault: string,
  spoil: (parts: { outer: Chain; entries: Chain }, random: Random) => void,
  more: Partial<BrokenRule> = {},
): BrokenRule => ({
  name,
  fault,
  costs: 'ring',
  concerns: hasTables,
  break: async (guest, ring, random) => {
    spoil(await tableChain(guest, ring), random);
    ring.publish();
    ring.kick();
  },
  ...more,
});

const ringRules: readonly BrokenRule[] = [
  direct('a data buffer outside of memory', 'descriptor-outside-memory', (chain, random) => {
    chain.setAddress(1, random.pick(NOWHERE));
  }),
  direct('a header outside of memory', 'descriptor-outside-memory', (chain, random) => {
    chain.setAddress(0, random.pick(NOWHERE));
  }),
  direct('a status byte outside of memory', 'descriptor-outside-memory', (chain, random) => {
    chain.setAddress(2, random.pick(NOWHERE));
  }),
  direct('a buffer that is too long for its memory', 'descriptor-outside-memory', (chain, random) => {
    chain.setLength(1, random.pick([0xffff_ffff, 0x8000_0000, 0x100_0000]));
  }),
  direct('an empty descriptor', 'descriptor-empty', (chain, random) => chain.setLength(random.below(3), 0)),
  direct('a readable descriptor after a writable one', 'readable-after-writable', (chain) => {
    chain.flipFlags(2, DESC.WRITE);
  }),
  direct('a request without a status byte', 'status-missing', (chain) => chain.flipFlags(2, DESC.WRITE), {
    type: BLK_TYPE.OUT,
  }),
  direct('a header that is too short', 'header-too-short', (chain, random) => {
    chain.setLength(0, 1 + random.below(15));
  }),
  direct(
    'an indirect table that was not agreed on',
    'indirect-not-negotiated',
    (chain) => {
      chain.flipFlags(1, DESC.INDIRECT);
    },
    { concerns: (guest) => !hasTables(guest) },
  ),
  direct(
    'an indirect table with a next descriptor',
    'indirect-with-next',
    (chain) => {
      chain.flipFlags(1, DESC.INDIRECT);
    },
    { concerns: hasTables },
  ),
  direct(
    'a chain that never ends',
    'chain-too-long',
    (chain) => {
      chain.flipFlags(2, DESC.NEXT);
      chain.setNextOrId(2, chain.nextOrId(1));
    },
    { concerns: isSplit },
  ),
  direct(
    'a next descriptor out of range',
    'next-out-of-range',
    (chain, random, { driver }) => {
      chain.setNextOrId(random.below(2), driver.size + random.below(0x10000 - driver.size));
    },
    { concerns: isSplit },
  ),
  direct(
    'a list that goes on where nothing is available',
    'descriptor-not-available',
    (chain) => {
      chain.flipFlags(2, DESC.NEXT);
    },
    { concerns: isPacked },
  ),
  direct(
    'a buffer id out of range',
    'head-out-of-range',
    (chain, random, { driver }) => {
      chain.setNextOrId(2, driver.size + random.below(0x10000 - driver.size));
    },
    { concerns: isPacked },
  ),
  {
    name: 'a buffer id that is in flight',
    fault: 'head-in-flight',
    costs: 'ring',
    concerns: (guest) => isPacked(guest) && guest.raw.rings[0]!.driver.size >= 8,
    break: async (guest, ring) => {
      await guest.settle(ring);
      const first = await directChain(guest, ring);
      const second = await directChain(guest, ring);
      second.setNextOrId(2, first.nextOrId(2));
      ring.publish();
      ring.kick();
    },
  },
  {
    name: 'a head out of range',
    fault: 'head-out-of-range',
    costs: 'ring',
    concerns: isSplit,
    break: (_, ring, random) => {
      ring.split.offerRaw(ring.driver.size + random.below(0x10000 - ring.driver.size));
      ring.kick();
    },
  },
  {
    name: 'a head that is in flight',
    fault: 'head-in-flight',
    costs: 'ring',
    concerns: isSplit,
    break: async (guest, ring) => {
      await guest.settle(ring);
      await directChain(guest, ring);
      const driver = ring.split;
      const head = guest.raw.ram.getU16(
        driver.availGpa + 4 + 2 * ((driver.nextAvail - 1) & (driver.size - 1)),
      );
      driver.offerRaw(head);
      ring.kick();
    },
  },
  {
    name: 'an avail index more than one queue ahead',
    fault: 'avail-idx-overrun',
    costs: 'ring',
    concerns: isSplit,
    break: (_, ring, random) => {
      const driver = ring.split;
      driver.setAvailIdx(driver.nextAvail + driver.size + 1 + random.below(0x4000));
      ring.kick();
    },
  },
  table('a table in a table', 'indirect-nested', ({ entries }) => entries.flipFlags(1, DESC.INDIRECT), {
    concerns: (guest) => hasTables(guest) && isSplit(guest),
  }),
  table(
    'a table that never ends',
    'chain-too-long',
    ({ entries }) => {
      entries.flipFlags(2, DESC.NEXT);
      entries.setNextOrId(2, 2);
    },
    { concerns: (guest) => hasTables(guest) && isSplit(guest) },
  ),
  table(
    'a next entry past the end of the table',
    'next-out-of-range',
    ({ entries }, random) => {
      entries.setNextOrId(random.below(2), 3 + random.below(0xfff0));
    },
    { concerns: (guest) => hasTables(guest) && isSplit(guest) },
  ),
  table(
    'a table that is longer than any chain',
    'chain-too-long',
    ({ outer }, random) => {
      outer.setLength(0, 16 * (1025 + random.below(1000)));
    },
    { concerns: (guest) => hasTables(guest) && isPacked(guest) },
  ),
  table('a table of no entries, or of a part of one', 'indirect-size-invalid', ({ outer }, random) => {
    outer.setLength(0, random.pick([0, 1, 15, 17, 47, 0xffff_ffff]));
  }),
  table('a table outside of memory', 'descriptor-outside-memory', ({ outer }, random) => {
    outer.setAddress(0, random.pick(NOWHERE));
  }),
  table('an entry outside of memory', 'descriptor-outside-memory', ({ entries }, random) => {
    entries.setAddress(random.below(3), random.pick(NOWHERE));
  }),
  table('an empty entry', 'descriptor-empty', ({ entries }, random) => entries.setLength(random.below(3), 0)),
  {
    name: 'a ring that lies askew',
    fault: 'ring-misaligned',
    costs: 'ring',
    break: async (guest, ring) => {
      await guest.raw.frontend.getVringBase(ring.index);
      guest.reap();
      const { desc, avail, used } = guest.raw.addressesOf(ring);
      const place = { desc: desc + 8, avail, used };
      await guest.raw.startRing(ring, { place });
    },
  },
  {
    name: 'a base past the end of the ring',
    fault: 'ring-base-invalid',
    costs: 'ring',
    concerns: isPacked,
    break: async (guest, ring, random) => {
      await guest.raw.frontend.getVringBase(ring.index);
      guest.reap();
      const slot = Math.min(0x7fff, ring.driver.size + random.below(1000));
      await guest.raw.startRing(ring, { base: slot });
    },
  },
  {
    name: 'a base that the ring has left behind, a lap ago',
    fault: 'ring-base-stale',
    costs: 'ring',
    concerns: (guest) => isPacked(guest) && guest.raw.inflight === undefined,
    break: async (guest, ring) => {
      await guest.settle(ring);
      const base = await guest.raw.frontend.getVringBase(ring.index);
      await guest.raw.startRing(ring, { base: (base ^ 0x8000_8000) >>> 0 });
    },
  },
  {
    name: 'an in-flight record of another version',
    fault: 'inflight-invalid',
    costs: 'ring',
    concerns: ({ raw }) => raw.inflight !== undefined,
    break: async (guest, ring, random) => {
      // Where it stops on its own accord the record is settled; as after a crash, it is not.
      await guest.settle();
      guest.raw.frontend.close();
      guest.raw.forgeInflight(ring, (area) => area.writeUInt16LE(2 + random.below(0xfff0), 8));
      await guest.raw.reconnect();
    },
  },
];

// ---- connections ---------------------------------------------------------------------------------------------------

/** One message, sent without waiting for what comes of it. */
const message = (
  name: string,
  fault: string,
  send: (guest: ModelGuest, random: Random, ring: RawRing) => void | Promise<void>,
  concerns?: BrokenRule['concerns'],
): BrokenRule => ({
  name,
  fault,
  costs: 'connection',
  break: (guest, ring, random) => send(guest, random, ring),
  ...(concerns && { concerns }),
});

const withFd = (make: () => number, use: (fd: number) => void): void => {
  const fd = make();
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
};
const memfd = (sizeBytes: number) => () => check('memfd', native.memfd('hostile', sizeBytes));

const connectionRules: readonly BrokenRule[] = [
  message('an unknown message', 'message-unknown', ({ raw }, random) => {
    raw.frontend.stream.send(random.pick([0, 19, 22, 26, 35, 41, 99, 0xffff_ffff]), u64(0));
  }),
  message('a message of another version', 'version-unsupported', ({ raw }, random) => {
    raw.frontend.stream.send(MESSAGE.GET_FEATURES, undefined, { flags: random.pick([0, 2, 3, 0xffff_fffc]) });
  }),
  message('a payload that is no payload of its message', 'payload-size-invalid', ({ raw }, random) => {
    const [code, sizes] = random.pick<[number, number[]]>([
      [MESSAGE.GET_FEATURES, [1, 8, 0xffff_ffff]],
      [MESSAGE.SET_FEATURES, [0, 7, 9, 4096]],
      [MESSAGE.SET_VRING_ADDR, [0, 39, 41]],
      [MESSAGE.SET_MEM_TABLE, [0, 7, 8 + 32 * 9, 0x8000_0000]],
      [MESSAGE.GET_CONFIG, [0, 11, 12 + 257]],
    ]);
    raw.frontend.stream.send(code, undefined, { sizeBytes: random.pick(sizes) });
  }),
  message('a memory table of another length than it says', 'payload-size-invalid', ({ raw }, random) => {
    const payload = Buffer.concat([u32(random.pick([0, 3, 8, 9, 0xffff_ffff]), 0), Buffer.alloc(64)]);
    raw.frontend.stream.send(MESSAGE.SET_MEM_TABLE, payload);
  }),
  message('a message that is cut off', 'message-truncated', ({ raw }, random) => {
    const whole = Buffer.concat([u32(MESSAGE.SET_VRING_NUM, FLAG.VERSION, 8), u32(0, 64)]);
    raw.frontend.stream.sendBytes(whole.subarray(0, 1 + random.below(whole.length - 1)));
    raw.frontend.close();
  }),
  message('descriptors that nobody asked for', 'descriptor-count-invalid', ({ raw }, random) => {
    withFd(memfd(4096), (fd) => {
      const fds = Array.from({ length: 1 + random.below(16) }, () => fd);
      raw.frontend.stream.send(random.pick([MESSAGE.GET_FEATURES, MESSAGE.SET_OWNER]), undefined, { fds });
    });
  }),
  message('a kick that is a file', 'descriptor-type-invalid', ({ raw }, random, ring) => {
    const code = random.pick([MESSAGE.SET_VRING_KICK, MESSAGE.SET_VRING_CALL, MESSAGE.SET_VRING_ERR]);
    const make = random.chance(0.5) ? memfd(8) : () => openSync('/dev/null', 'r+');
    withFd(make, (fd) => raw.frontend.stream.send(code, u64(ring.index), { fds: [fd] }));
  }),
  message('a kick without its descriptor', 'descriptor-count-invalid', ({ raw }, _, ring) => {
    raw.frontend.stream.send(MESSAGE.SET_VRING_KICK, u64(ring.index));
  }),
  message('features that were not offered', 'features-not-offered', ({ raw }, random) => {
    raw.frontend.stream.send(MESSAGE.SET_FEATURES, u64(raw.features | bits(random.pick([0, 3, 24, 33, 63]))));
  }),
  message('features changed under running rings', 'vring-running', ({ raw }) => {
    raw.frontend.stream.send(MESSAGE.SET_FEATURES, u64(raw.features ^ bits(RING_FEATURE.EVENT_IDX)));
  }),
  message('protocol features that were not offered', 'protocol-features-not-offered', ({ raw }, random) => {
    raw.frontend.stream.send(
      MESSAGE.SET_PROTOCOL_FEATURES,
      u64(1n << BigInt(random.pick([2, 4, 8, 17, 63]))),
    );
  }),
  message('a message of a feature that was given up', 'message-not-negotiated', ({ raw }) => {
    raw.frontend.stream.send(MESSAGE.SET_PROTOCOL_FEATURES, u64(bits(PROTOCOL_FEATURE.MQ)));
    raw.frontend.stream.send(MESSAGE.GET_STATUS);
  }),
  message('a ring that there is not', 'vring-index-invalid', ({ raw }, random) => {
    const code = random.pick([MESSAGE.SET_VRING_NUM, MESSAGE.SET_VRING_BASE, MESSAGE.SET_VRING_ENABLE]);
    raw.frontend.stream.send(code, u32(random.pick([2, 255, 256, 0x7fff_ffff, 0xffff_ffff]), 1));
  }),
  message('a running ring of another size', 'vring-running', ({ raw }, _, ring) => {
    raw.frontend.stream.send(MESSAGE.SET_VRING_NUM, u32(ring.index, 2 * ring.driver.size));
  }),
  message('a ring of no possible size', 'vring-size-invalid', async ({ raw }, random, ring) => {
    await raw.frontend.getVringBase(ring.index);
    const sizes = [0, 32769, 65536, 0xffff_ffff, ...(raw.options.packed ? [] : [3, 12, 100])];
    raw.frontend.stream.send(MESSAGE.SET_VRING_NUM, u32(ring.index, random.pick(sizes)));
  }),
  message('a ring in no memory', 'vring-address-unmapped', async ({ raw }, random, ring) => {
    await raw.frontend.getVringBase(ring.index);
    const place = raw.addressesOf(ring);
    const spoilt = { ...place, [random.pick(['desc', 'avail', 'used'])]: random.pick([0, 4096, 2 ** 40]) };
    await tolerate(raw.startRing(ring, { place: spoilt }));
  }),
  message('ring addresses past 2^53', 'number-too-large', ({ raw }, random, ring) => {
    const addresses = [0n, 0n, 0n, 0n];
    addresses[random.below(3)] = random.pick([2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]);
    raw.frontend.stream.send(MESSAGE.SET_VRING_ADDR, Buffer.concat([u32(ring.index, 0), u64(...addresses)]));
  }),
  message('memory regions that overlap', 'memory-regions-overlap', ({ raw }, random) => {
    const region = { gpa: 0, sizeBytes: 8192, userAddress: 0x7000_0000, mmapOffsetBytes: 0 };
    const other = random.chance(0.5)
      ? { gpa: 4096, userAddress: 0x7100_0000 }
      : { gpa: 1 << 20, userAddress: 0x7000_1000 };
    const payload = Buffer.concat([u32(2, 0), regionBytes(region), regionBytes({ ...region, ...other })]);
    withFd(memfd(8192), (fd) => {
      raw.frontend.stream.send(MESSAGE.SET_MEM_TABLE, payload, { fds: [fd, fd] });
    });
  }),
  message('a memory region past the end of its file', 'memory-region-invalid', ({ raw }, random) => {
    const [sizeBytes, mmapOffsetBytes] = random.pick([
      [8192, 0],
      [4096, 4096],
      [2 ** 40, 0],
      [0, 0],
      [2048, 512],
    ] as const);
    const region = { gpa: 0, sizeBytes, userAddress: 0x7000_0000, mmapOffsetBytes };
    withFd(memfd(4096), (fd) => {
      const payload = Buffer.concat([u32(1, 0), regionBytes(region)]);
      raw.frontend.stream.send(MESSAGE.SET_MEM_TABLE, payload, { fds: [fd] });
    });
  }),
  message('a memory region that was never there taken away', 'memory-region-invalid', ({ raw }, random) => {
    const region = { ...raw.ram.regions[0]!, userAddress: 4096 * random.below(1000) };
    raw.frontend.stream.send(MESSAGE.REM_MEM_REG, Buffer.concat([u64(0), regionBytes(region)]));
  }),
  message('a configuration that is the device’s alone', 'config-invalid', ({ raw }, random) => {
    const bytes = Buffer.alloc(1 + random.below(8));
    const offset = random.pick([0, 20, 31, 33, 250, 0xffff_ffff]);
    raw.frontend.stream.send(MESSAGE.SET_CONFIG, Buffer.concat([u32(offset, bytes.length, 0), bytes]));
  }),
  message('an in-flight area under running rings', 'vring-running', ({ raw }) => {
    withFd(memfd(1 << 16), (fd) => {
      const payload = inflightBytes(1 << 16, 0, raw.rings.length, 64);
      raw.frontend.stream.send(MESSAGE.SET_INFLIGHT_FD, payload, { fds: [fd] });
    });
  }),
  message('an in-flight area that is too small', 'memory-region-invalid', async ({ raw }, random) => {
    for (const { index } of raw.rings) await raw.frontend.getVringBase(index);
    withFd(memfd(4096), (fd) => {
      const payload = random.pick([
        inflightBytes(4096, 0, 2, 1024),
        inflightBytes(8192, 0, 1, 4),
        inflightBytes(4096, 4096, 1, 4),
        inflightBytes(4096, 0, 3, 4),
        inflightBytes(4096, 0, 0, 4),
        inflightBytes(4096, 0, 1, 0),
      ]);
      raw.frontend.stream.send(MESSAGE.SET_INFLIGHT_FD, payload, { fds: [fd] });
    });
  }),
  message('answers that are never read', 'reply-not-taken', async ({ raw }) => {
    const many = Buffer.concat(Array.from({ length: 100 }, () => u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0)));
    const none = new Int32Array(0);
    const { EAGAIN } = constants.errno;
    // Until the back-end has closed; what does not fit now is sent later.
    for (
      let at = 0, sent = 0;
      sent >= 0 || sent === -EAGAIN;
      at = sent > 0 ? (at + sent) % many.length : at
    ) {
      sent = native.send(raw.frontend.stream.fd, many, at, many.length - at, none, 0);
      if (sent < 0) await setImmediate();
    }
  }),
  {
    name: 'memory that is cut off under a request',
    fault: 'memory-truncated',
    costs: 'connection',
    break: async (guest, ring) => {
      const { raw } = guest;
      await guest.settle();
      await guest.roomFor(ring, 3);
      const region = await raw.plug({ gpa: 0x3_0000_0000, sizeBytes: 0x1000 });
      const header = raw.ram.allocate(16, 16, raw.ram.regions.indexOf(region));
      const status = raw.ram.allocate(1, 1, 1);
      const request = raw.submit(
        ring.index,
        [
          { gpa: header, lengthBytes: 16, writable: false },
          { gpa: status, lengthBytes: 1, writable: true },
        ],
        { show: false },
      );
      ftruncateSync(region.fd, 0);
      ring.publish();
      ring.kick();
      await raw.frontend.closedByBackend();
      // Nobody offers that request again, as its header is gone.
      raw.release(request);
      raw.abandon();
      for (const each of raw.rings) each.reset();
      raw.forgetInflight();
      raw.ram.unplug(region);
    },
  },
];

/** Every rule that the fuzzer breaks. */
export const brokenRules: readonly BrokenRule[] = [...ringRules, ...connectionRules];
