import { BLK_TYPE, DESC } from '@cairn/virtio/testing';
import type { Random } from '../support/random.js';
import { type BrokenRule, hasTables, isPacked, isSplit } from './broken-rule.js';
import type { RawRing } from './raw-ring.js';
import { type Chain, directChain, tableChain } from './spoilt-chain.js';

// What a driver may do wrong: a valid read of which something is changed before the device sees it, and rings that lie
// or begin where they must not.

/** Where there is no guest memory: between the regions, past them, and where an end would wrap. */
const NOWHERE = [0x20_0000, 0xffff_f000, 0x1_4000_0000, 2 ** 46, 2n ** 63n, 2n ** 64n - 4096n] as const;

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

/** Rules whose breach costs the ring. */
export const ringRules: readonly BrokenRule[] = [
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
