import type { FakeBlkDisk, FakeDiskOptions, FakeQueue } from '@cairn/vhost-user/testing';
import { BLK_TYPE, DESC, RING_FEATURE, bits, type FakeDriver, type GuestRam } from '@cairn/virtio/testing';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { sleepsOf } from '../support/back-end.js';
import { HostileArena } from './hostile-arena.js';

/** What a hostile driver has at hand: a running ring and the parts of one request. */
interface Stage {
  disk: FakeBlkDisk;
  queue: FakeQueue;
  driver: FakeDriver;
  ram: GuestRam;
  /** 16 bytes: a valid read of sector 0. */
  header: number;
  /** 64 KiB. */
  data: number;
  /** One byte. */
  status: number;
}

const DATA_BYTES = 0x1_0000;
const REGIONS = { low: 0x10_0000, high: 0x1_0000_0000, highEnd: 0x1_0100_0000 };

/** Writes a chain of descriptors by hand and offers its head. */
const offer = (
  { driver, queue }: Stage,
  ...descriptors: { gpa: number | bigint; lengthBytes: number; flags: number; next?: number }[]
): number => {
  const indices = descriptors.map(() => driver.takeDescriptor());
  descriptors.forEach((descriptor, i) =>
    driver.writeDescriptor(indices[i]!, { next: indices[i + 1] ?? 0, ...descriptor }),
  );
  driver.offerRaw(indices[0]!);
  queue.kick();
  return indices[0]!;
};

const headerOf = ({ header }: Stage) => ({ gpa: header, lengthBytes: 16, flags: DESC.NEXT });
const dataOf = ({ data }: Stage, lengthBytes = 512) => ({
  gpa: data,
  lengthBytes,
  flags: DESC.NEXT | DESC.WRITE,
});
const statusOf = ({ status }: Stage) => ({ gpa: status, lengthBytes: 1, flags: DESC.WRITE });

/** Puts descriptors into an indirect table and offers it; `lengthBytes` and `flags` are the outer descriptor's. */
const offerIndirect = (
  stage: Stage,
  entries: { gpa: number | bigint; lengthBytes: number; flags: number; next?: number }[],
  outer: { lengthBytes?: number; flags?: number; gpa?: number | bigint; shift?: number } = {},
): void => {
  const { driver, ram } = stage;
  const table = ram.allocate(16 * entries.length + 16, 16) + (outer.shift ?? 0);
  entries.forEach((entry, i) => driver.writeDescriptorAt(table + 16 * i, { next: i + 1, ...entry }));
  offer(stage, { gpa: table, lengthBytes: 16 * entries.length, flags: DESC.INDIRECT, ...outer });
};

interface Attack {
  name: string;
  options?: FakeDiskOptions;
  /** What it must lead to; `contained` = anything that costs nobody else. */
  want: 'stopped' | 'contained';
  run: (stage: Stage) => void | Promise<void>;
}

const stopped = (name: string, run: Attack['run'], options?: FakeDiskOptions): Attack => ({
  name,
  run,
  options,
  want: 'stopped',
});
const contained = (name: string, run: Attack['run'], options?: FakeDiskOptions): Attack => ({
  name,
  run,
  options,
  want: 'contained',
});

const outside = (name: string, gpa: number | bigint, lengthBytes = 512): Attack[] => [
  stopped(`the data buffer ${name}`, (s) => {
    offer(s, headerOf(s), { gpa, lengthBytes, flags: DESC.NEXT | DESC.WRITE }, statusOf(s));
  }),
  stopped(`the header ${name}`, (s) => {
    offer(s, { gpa, lengthBytes: Math.max(16, lengthBytes), flags: DESC.NEXT }, dataOf(s), statusOf(s));
  }),
  stopped(`the status byte ${name}`, (s) => {
    offer(s, headerOf(s), dataOf(s), { gpa, lengthBytes, flags: DESC.WRITE });
  }),
  stopped(`the indirect table ${name}`, (s) => {
    offer(s, { gpa, lengthBytes: 48, flags: DESC.INDIRECT });
  }),
];

const attacks: Attack[] = [
  // virtio 1.2 §2.7.6: the avail ring
  stopped('a head that is the queue size', ({ driver, queue }) => {
    driver.offerRaw(driver.size);
    queue.kick();
  }),
  stopped('a head of 65535', ({ driver, queue }) => {
    driver.offerRaw(0xffff);
    queue.kick();
  }),
  stopped('a head that is in flight', (s) => {
    const { driver, queue } = s;
    const [header, data, status] = [
      driver.takeDescriptor(),
      driver.takeDescriptor(),
      driver.takeDescriptor(),
    ];
    driver.writeDescriptor(header, { ...headerOf(s), next: data });
    driver.writeDescriptor(data, { ...dataOf(s, DATA_BYTES), next: status });
    driver.writeDescriptor(status, { ...statusOf(s), next: 0 });
    driver.setAvailEntry(driver.nextAvail, header);
    driver.setAvailEntry(driver.nextAvail + 1, header);
    driver.setAvailIdx(driver.nextAvail + 2);
    queue.kick();
  }),
  stopped('an avail index one more than a queue ahead', ({ driver, queue }) => {
    driver.setAvailIdx(driver.nextAvail + driver.size + 1);
    queue.kick();
  }),
  stopped('an avail index half of its range ahead', ({ driver, queue }) => {
    driver.setAvailIdx(driver.nextAvail + 0x8000);
    queue.kick();
  }),
  stopped('an avail index that goes back', ({ driver, queue }) => {
    driver.setAvailIdx(driver.nextAvail - 1);
    queue.kick();
  }),
  stopped('a full queue of one head', (s) => {
    const { driver, queue } = s;
    for (let i = 0; i < driver.size; i++) driver.setAvailEntry(driver.nextAvail + i, 5);
    driver.writeDescriptor(5, { gpa: s.header, lengthBytes: 16, flags: DESC.NEXT, next: 5 });
    driver.setAvailIdx(driver.nextAvail + driver.size);
    queue.kick();
  }),

  // virtio 1.2 §2.7.5: chains
  stopped('a descriptor that is its own next', (s) => {
    const { driver, queue } = s;
    const index = driver.takeDescriptor();
    driver.writeDescriptor(index, { ...headerOf(s), next: index });
    driver.offerRaw(index);
    queue.kick();
  }),
  stopped('a loop of two descriptors', (s) => {
    const { driver, queue } = s;
    const [a, b] = [driver.takeDescriptor(), driver.takeDescriptor()];
    driver.writeDescriptor(a, { ...headerOf(s), next: b });
    driver.writeDescriptor(b, { ...headerOf(s), next: a });
    driver.offerRaw(a);
    queue.kick();
  }),
  stopped('a next that is the queue size', (s) => {
    offer(s, { ...headerOf(s), next: s.driver.size });
  }),
  stopped('a next of 65535', (s) => {
    offer(s, headerOf(s), { ...dataOf(s), next: 0xffff });
  }),
  stopped('a next out of the indirect table', (s) => {
    offerIndirect(s, [headerOf(s), { ...dataOf(s), next: 3 }, statusOf(s)]);
  }),
  stopped('a loop in an indirect table', (s) => {
    offerIndirect(s, [headerOf(s), { ...dataOf(s), next: 1 }, statusOf(s)]);
  }),
  contained(
    'an indirect table longer than the queue',
    (s) => {
      const pieces = Array.from({ length: 8 }, () => dataOf(s, 64));
      offerIndirect(s, [headerOf(s), ...pieces, statusOf(s)]);
    },
    { queueSize: 4 },
  ),
  stopped('an indirect table of 2000 entries', (s) => {
    offerIndirect(s, [headerOf(s), ...Array.from({ length: 1998 }, () => dataOf(s, 1)), statusOf(s)]);
  }),
  stopped('an indirect table of 2^28 entries', (s) => {
    offerIndirect(s, [headerOf(s), dataOf(s), statusOf(s)], { lengthBytes: 0xffff_fff0 });
  }),
  contained(
    'a chain of more than 2^32 bytes',
    (s) => {
      const { ram } = s;
      const mostOfRegion = REGIONS.highEnd - REGIONS.high;
      ram.bytes(REGIONS.high, 16);
      const huge = Array.from({ length: 300 }, () => ({
        gpa: REGIONS.high,
        lengthBytes: mostOfRegion,
        flags: DESC.NEXT | DESC.WRITE,
      }));
      offerIndirect(s, [headerOf(s), ...huge, statusOf(s)]);
    },
    { ringRegion: 0 },
  ),
  stopped('an indirect table in an indirect table', (s) => {
    offerIndirect(s, [{ gpa: s.data, lengthBytes: 48, flags: DESC.INDIRECT }]);
  }),
  stopped('INDIRECT together with NEXT', (s) => {
    offerIndirect(s, [headerOf(s), dataOf(s), statusOf(s)], { flags: DESC.INDIRECT | DESC.NEXT });
  }),
  contained('INDIRECT together with WRITE', (s) => {
    // virtio 1.2 §2.7.5.3.2: the device ignores the write-only flag of such a descriptor.
    offerIndirect(s, [headerOf(s), dataOf(s), statusOf(s)], { flags: DESC.INDIRECT | DESC.WRITE });
  }),
  stopped(
    'an indirect table without the feature',
    (s) => {
      offerIndirect(s, [headerOf(s), dataOf(s), statusOf(s)]);
    },
    { without: bits(RING_FEATURE.INDIRECT_DESC) },
  ),
  ...[0, 1, 8, 15, 17, 24, 47].map((lengthBytes) =>
    stopped(`an indirect table of ${lengthBytes} bytes`, (s) => {
      offerIndirect(s, [headerOf(s), dataOf(s), statusOf(s)], { lengthBytes });
    }),
  ),
  ...[1, 2, 4, 8].map((shift) =>
    contained(`an indirect table ${shift} bytes off its alignment`, (s) => {
      offerIndirect(s, [headerOf(s), dataOf(s), statusOf(s)], { shift });
    }),
  ),
  contained('a data descriptor of no bytes', (s) => {
    offer(s, headerOf(s), { ...dataOf(s), lengthBytes: 0 }, statusOf(s));
  }),
  contained('a status descriptor of no bytes', (s) => {
    offer(s, headerOf(s), dataOf(s), { ...statusOf(s), lengthBytes: 0 });
  }),
  contained('a chain of 100 descriptors of no bytes', (s) => {
    offer(
      s,
      ...Array.from({ length: 100 }, () => ({ gpa: 0, lengthBytes: 0, flags: DESC.NEXT })),
      statusOf(s),
    );
  }),
  stopped('a data descriptor of 2^32 - 1 bytes', (s) => {
    offer(s, headerOf(s), { ...dataOf(s), lengthBytes: 0xffff_ffff }, statusOf(s));
  }),
  stopped('device-writable before device-readable', (s) => {
    offer(s, dataOf(s), headerOf(s), statusOf(s));
  }),
  stopped('device-readable at the end', (s) => {
    offer(s, headerOf(s), dataOf(s), { gpa: s.status, lengthBytes: 1, flags: 0 });
  }),
  stopped('no status byte', (s) => {
    offer(s, { ...headerOf(s), flags: 0 });
  }),
  stopped('nothing but a status byte', (s) => {
    offer(s, statusOf(s));
  }),
  stopped('a header of 8 bytes', (s) => {
    offer(s, { ...headerOf(s), lengthBytes: 8 }, dataOf(s), statusOf(s));
  }),
  stopped('a header that the device would have to write', (s) => {
    offer(s, { ...headerOf(s), flags: DESC.NEXT | DESC.WRITE }, dataOf(s), statusOf(s));
  }),
  contained('every reserved descriptor flag', (s) => {
    offer(s, { ...headerOf(s), flags: DESC.NEXT | 0xfff8 }, dataOf(s), statusOf(s));
  }),

  // addresses
  ...outside('in the hole between the regions', 0x4000_0000),
  ...outside('at the very end of memory', REGIONS.highEnd),
  ...outside('across the end of the low region', REGIONS.low - 8),
  ...outside('across the end of the high region', REGIONS.highEnd - 8),
  ...outside('across the start of the high region', REGIONS.high - 8),
  ...outside('at 2^63', 1n << 63n),
  ...outside('at the last address, wrapping', (1n << 64n) - 8n),
  ...outside('at 2^53 + 1', (1n << 53n) + 1n),
  ...outside('at 4 GiB below the mapping', (1n << 64n) - (1n << 32n)),

  // notifications
  contained('event indices out of range', async (s) => {
    for (const event of [0xffff, 0x8000, s.driver.size * 3]) {
      s.driver.setUsedEvent(s.driver.nextAvail + event);
      offer(s, headerOf(s), dataOf(s), statusOf(s));
      await setTimeout(5);
    }
  }),
  contained('avail flags of all ones', (s) => {
    s.driver.setAvailFlags(0xffff);
    offer(s, headerOf(s), dataOf(s), statusOf(s));
  }),
  contained('a used ring that the driver writes over', async (s) => {
    const { driver, ram } = s;
    ram.bytes(driver.usedGpa, 6 + 8 * driver.size).fill(0xff);
    for (let i = 0; i < 10; i++) offer(s, headerOf(s), dataOf(s), statusOf(s));
    ram.bytes(driver.usedGpa, 6 + 8 * driver.size).fill(0xa5);
    await setTimeout(20);
  }),
  contained('ten thousand kicks for nothing', ({ queue }) => {
    for (let i = 0; i < 10_000; i++) queue.kick();
  }),

  // double fetches
  contained('descriptors that change while the device reads them', async (s) => {
    const { driver, queue } = s;
    const [a, b, c] = [driver.takeDescriptor(), driver.takeDescriptor(), driver.takeDescriptor()];
    const good = () => {
      driver.writeDescriptor(a, { ...headerOf(s), next: b });
      driver.writeDescriptor(b, { ...dataOf(s, 4096), next: c });
      driver.writeDescriptor(c, { ...statusOf(s), next: 0 });
    };
    good();
    for (let i = 0; i < 2_000 && !queue.sawError(); i++) {
      driver.offerRaw(a);
      queue.kick();
      for (let spin = 0; spin < 20; spin++) {
        driver.writeDescriptor(b, {
          gpa: (1n << 47n) - 4096n,
          lengthBytes: 0xffff_ffff,
          flags: 7,
          next: 0xffff,
        });
        good();
      }
      if (i % 50 === 0) await setImmediate();
    }
  }),
  contained('a header that changes while the device reads it', async (s) => {
    const { driver, queue, ram, header } = s;
    for (let i = 0; i < 1_000 && driver.freeDescriptors > 3; i++) {
      const head = driver.submit([
        { gpa: header, lengthBytes: 16, writable: false },
        { gpa: s.data, lengthBytes: 4096, writable: true },
        { gpa: s.status, lengthBytes: 1, writable: true },
      ]);
      expect(head).toBeLessThan(driver.size);
      driver.publish();
      queue.kick();
      for (let spin = 0; spin < 20; spin++) {
        ram.setU32(header, BLK_TYPE.OUT);
        ram.setU64(header + 8, (1n << 55n) - 1n);
        ram.setU32(header, 0x77);
        ram.setU64(header + 8, 0);
        ram.setU32(header, BLK_TYPE.IN);
      }
      await setImmediate();
      while (driver.popUsed());
    }
  }),
];

describe('a hostile driver costs only its own ring', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  it.each(attacks)('$name', async ({ options, want, run }) => {
    const disk = await arena.disk(options);
    const queue = disk.queues[0]!;
    const { ram } = disk;
    const stage: Stage = {
      disk,
      queue,
      driver: queue.driver,
      ram,
      header: ram.allocate(16, 16),
      data: ram.allocate(DATA_BYTES, 4096),
      status: ram.allocate(1, 1),
    };
    ram.setU32(stage.header, BLK_TYPE.IN);
    await disk.read(0, 512);
    await run(stage);
    const outcome = await arena.outcome(disk, queue, want === 'stopped' ? 2_000 : 60);
    if (want === 'stopped') expect(outcome).not.toBe('nothing');
    // The other ring of the same guest goes on.
    queue.ignored = true;
    if (outcome === 'ring-stopped') await disk.read(0, 4096, { queue: 1 });
    await arena.checkInnocent();
  });

  it('a broken ring is started again after the driver has reset it', async () => {
    const disk = await arena.disk();
    const queue = disk.queues[0]!;
    queue.driver.offerRaw(0xffff);
    queue.kick();
    expect(await arena.outcome(disk, queue)).toBe('ring-stopped');
    await disk.stop();
    disk.resetRings();
    await disk.start();
    await disk.read(0, 4096);
  });

  it('a broken ring that still has something to offer keeps no core busy', async () => {
    const disk = await arena.disk();
    const queue = disk.queues[0]!;
    await disk.read(0, 512);
    queue.driver.setAvailIdx(queue.driver.nextAvail + 0x4000);
    queue.kick();
    expect(await arena.outcome(disk, queue)).toBe('ring-stopped');
    expect(await arena.idleLoad()).toBeLessThan(0.15);
  });

  it('a broken ring without a kick descriptor wakes nobody', async () => {
    const disk = await arena.disk();
    const queue = disk.queues[0]!;
    const sleeps = async () => {
      const before = sleepsOf(arena.pid);
      await setTimeout(500);
      return sleepsOf(arena.pid) - before;
    };
    const quiet = await sleeps();
    await disk.frontend.setVringKick(0);
    await disk.read(0, 512);
    // It has to be looked at every millisecond, as long as it may be of use.
    expect(await sleeps()).toBeGreaterThan(quiet + 100);
    queue.driver.offerRaw(0xffff);
    expect(await arena.outcome(disk, queue)).toBe('ring-stopped');
    expect(await sleeps()).toBeLessThan(quiet + 50);
  });

  it('a stopped ring that still has something to offer keeps no core busy', async () => {
    const disk = await arena.disk();
    await disk.read(0, 512);
    await disk.stop();
    for (const { driver } of disk.queues) driver.setAvailIdx(driver.nextAvail + 5);
    for (const queue of disk.queues) queue.kick();
    expect(await arena.idleLoad()).toBeLessThan(0.15);
  });
});
