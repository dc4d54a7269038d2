import { closeSync, openSync, writeFileSync, ftruncateSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import {
  FakeBlkDisk,
  type FakeFrontend,
  FLAG,
  MESSAGE,
  regionBytes,
  VRING_NO_FD,
} from '@cairn/vhost-user/testing';
import { BLK_STATUS, BLK_TYPE, GuestRam, bits } from '@cairn/virtio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { scratchDirectory } from '../support/back-end.js';
import { DISK_BYTES, HostileArena, QUEUES, tolerate } from './hostile-arena.js';

const MiB = 2 ** 20;
const GiB = 2 ** 30;

const u32 = (...values: number[]) => {
  const out = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => out.writeUInt32LE(value >>> 0, 4 * i));
  return out;
};
const u64 = (...values: (number | bigint)[]) => {
  const out = Buffer.alloc(8 * values.length);
  values.forEach((value, i) => out.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), 8 * i));
  return out;
};

interface Region {
  gpa?: number | bigint;
  sizeBytes?: number | bigint;
  userAddress?: number | bigint;
  mmapOffsetBytes?: number | bigint;
}
const memTable = (regions: Region[], count = regions.length) =>
  Buffer.concat([
    u32(count, 0),
    ...regions.map(({ gpa = 0, sizeBytes = MiB, userAddress = 0x7000_0000, mmapOffsetBytes = 0 }) =>
      u64(gpa, sizeBytes, userAddress, mmapOffsetBytes),
    ),
  ]);

/** An honest payload of each message that carries no descriptor. */
const payloads: [name: string, code: number, payload: Buffer][] = [
  ['GET_FEATURES', MESSAGE.GET_FEATURES, Buffer.alloc(0)],
  ['SET_FEATURES', MESSAGE.SET_FEATURES, u64(bits(32, 30))],
  ['SET_OWNER', MESSAGE.SET_OWNER, Buffer.alloc(0)],
  ['SET_MEM_TABLE', MESSAGE.SET_MEM_TABLE, memTable([{}])],
  ['SET_VRING_NUM', MESSAGE.SET_VRING_NUM, u32(0, 128)],
  ['SET_VRING_ADDR', MESSAGE.SET_VRING_ADDR, Buffer.concat([u32(0, 0), u64(0, 0, 0, 0)])],
  ['SET_VRING_BASE', MESSAGE.SET_VRING_BASE, u32(0, 0)],
  ['GET_VRING_BASE', MESSAGE.GET_VRING_BASE, u32(0, 0)],
  ['SET_VRING_KICK', MESSAGE.SET_VRING_KICK, u64(VRING_NO_FD)],
  ['SET_VRING_CALL', MESSAGE.SET_VRING_CALL, u64(VRING_NO_FD)],
  ['SET_VRING_ERR', MESSAGE.SET_VRING_ERR, u64(VRING_NO_FD)],
  ['GET_PROTOCOL_FEATURES', MESSAGE.GET_PROTOCOL_FEATURES, Buffer.alloc(0)],
  ['SET_PROTOCOL_FEATURES', MESSAGE.SET_PROTOCOL_FEATURES, u64(0)],
  ['GET_QUEUE_NUM', MESSAGE.GET_QUEUE_NUM, Buffer.alloc(0)],
  ['SET_VRING_ENABLE', MESSAGE.SET_VRING_ENABLE, u32(0, 1)],
  ['SET_BACKEND_REQ_FD', MESSAGE.SET_BACKEND_REQ_FD, Buffer.alloc(0)],
  ['GET_CONFIG', MESSAGE.GET_CONFIG, Buffer.concat([u32(0, 60, 0), Buffer.alloc(60)])],
  ['SET_CONFIG', MESSAGE.SET_CONFIG, Buffer.concat([u32(32, 1, 0), Buffer.from([1])])],
];

/** Descriptors that are not what a message wants. */
const oddDescriptors: [string, (scratch: string) => number][] = [
  [
    'a regular file',
    (scratch) => {
      const path = join(scratch, 'file');
      writeFileSync(path, Buffer.alloc(MiB));
      return openSync(path, 'r+');
    },
  ],
  [
    'a read-only file',
    (scratch) => {
      const path = join(scratch, 'ro');
      writeFileSync(path, Buffer.alloc(MiB));
      return openSync(path, 'r');
    },
  ],
  ['a directory', (scratch) => openSync(scratch, 'r')],
  ['/dev/null', () => openSync('/dev/null', 'r+')],
  ['/dev/zero', () => openSync('/dev/zero', 'r+')],
  ['/proc/self/mem', () => openSync('/proc/self/mem', 'r+')],
  ['an eventfd', () => check('eventfd', native.eventfd(EFD_NONBLOCK))],
  ['a memfd', () => check('memfd', native.memfd('odd', MiB))],
  ['an empty memfd', () => check('memfd', native.memfd('odd', 0))],
  [
    'a socket whose other end is closed',
    () => {
      const pair = new Int32Array(2);
      check('socketPair', native.socketPair(pair));
      closeSync(pair[1]!);
      return pair[0]!;
    },
  ],
  [
    'a socket of nobody',
    () => {
      const pair = new Int32Array(2);
      check('socketPair', native.socketPair(pair));
      return pair[0]!;
    },
  ],
];

describe('a hostile front-end costs only its own connection', () => {
  let arena: HostileArena;
  const scratch = scratchDirectory();
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(async () => {
    await arena.close();
    scratch.remove();
  });
  afterEach(() => arena.verify());

  const memfd = (sizeBytes = MiB) => arena.own(check('memfd', native.memfd('hostile', sizeBytes)));
  const eventfd = (flags = EFD_NONBLOCK) => arena.own(check('eventfd', native.eventfd(flags)));

  /** Sends a message with NEED_REPLY and lets the back-end refuse it, cut the connection, or take it. */
  const attempt = async (
    frontend: FakeFrontend,
    code: number,
    payload?: Uint8Array,
    fds?: readonly number[],
  ): Promise<'taken' | 'refused' | 'disconnected'> => {
    try {
      await frontend.tell(code, payload, fds);
      return 'taken';
    } catch (error) {
      if (error instanceof Error && error.name === 'Disconnected') return 'disconnected';
      if (error instanceof Error && error.name === 'Refused') return 'refused';
      throw error;
    }
  };

  const rejected = async (outcome: Promise<string>) =>
    expect(['refused', 'disconnected']).toContain(await outcome);

  describe('frames', () => {
    it.each([0, 4, 11, 19, 22, 26, 28, 37, 38, 41, 99, 1000, 0x8000_0001, 0xffff_ffff])(
      'message code %i',
      async (code) => {
        const frontend = await arena.negotiated();
        frontend.stream.send(code, u64(0), { flags: FLAG.VERSION | FLAG.NEED_REPLY });
        await setTimeout(5);
        await arena.checkInnocent();
      },
    );

    it.each([
      ['LOG', MESSAGE.SET_LOG_BASE],
      ['in-flight', MESSAGE.GET_INFLIGHT_FD],
      ['in-flight', MESSAGE.SET_INFLIGHT_FD],
      ['device reset', MESSAGE.RESET_DEVICE],
      ['memory slots', MESSAGE.ADD_MEM_REG],
      ['memory slots', MESSAGE.REM_MEM_REG],
      ['status', MESSAGE.SET_STATUS],
    ])('messages of a protocol feature that was not offered: %s (%i)', async (_, code) => {
      const frontend = await arena.negotiated();
      await rejected(attempt(frontend, code, Buffer.alloc(40), [memfd()]));
    });

    it.each([0, 2, 3, FLAG.VERSION | FLAG.REPLY, 0xffff_ffff, 0xffff_fffc])('flags %i', async (flags) => {
      const frontend = arena.connect();
      frontend.stream.send(MESSAGE.GET_FEATURES, undefined, { flags });
      await setTimeout(5);
      await arena.checkInnocent();
    });

    it.each([0xffff_ffff, 0x8000_0000, 0x7fff_ffff, MiB, 4096, 1000])(
      'a payload size of %i',
      async (sizeBytes) => {
        for (const code of [MESSAGE.GET_FEATURES, MESSAGE.SET_MEM_TABLE, MESSAGE.SET_CONFIG]) {
          const frontend = arena.connect();
          frontend.stream.send(code, undefined, { sizeBytes });
          await tolerate((async () => frontend.stream.sendBytes(Buffer.alloc(4096)))());
          await setTimeout(2);
          frontend.close();
        }
      },
    );

    it.each(payloads)('%s with every other size of payload', async (_, code, payload) => {
      for (const wrong of [0, 1, 4, 7, 8, 9, 12, 16, 39, 41, 72, 256, 268, 300]) {
        if (wrong === payload.length) continue;
        const frontend = await arena.negotiated();
        const resized = Buffer.concat([payload, Buffer.alloc(wrong)]).subarray(0, wrong);
        frontend.stream.send(code, resized, { flags: FLAG.VERSION | FLAG.NEED_REPLY });
        await setImmediate();
        frontend.close();
      }
    });

    it.each(payloads)('%s cut off at every byte', async (_, code, payload) => {
      const whole = Buffer.concat([u32(code, FLAG.VERSION, payload.length), payload]);
      for (let length = 1; length < whole.length; length += 1 + (length >> 2)) {
        const frontend = arena.connect();
        frontend.stream.sendBytes(whole.subarray(0, length));
        frontend.close();
      }
    });

    it('a message that comes byte by byte is a message', async () => {
      const frontend = arena.connect();
      for (const byte of u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0)) {
        frontend.stream.sendBytes(Uint8Array.of(byte));
        await setTimeout(1);
      }
      expect((await frontend.receiveReply(MESSAGE.GET_FEATURES)).payload).toHaveLength(8);
    });

    it('many messages in one packet are all answered', async () => {
      const frontend = arena.connect();
      const one = u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0);
      frontend.stream.sendBytes(Buffer.concat(Array.from({ length: 50 }, () => one)));
      for (let i = 0; i < 50; i++) await frontend.receiveReply(MESSAGE.GET_FEATURES);
    });

    it('garbage', async () => {
      for (let seed = 1; seed <= 20; seed++) {
        const frontend = arena.connect();
        const noise = Buffer.from(Array.from({ length: 500 }, (_, i) => (i * seed * 2_654_435_761) >>> 13));
        frontend.stream.sendBytes(noise, [memfd(4096), eventfd()]);
        await setImmediate();
        frontend.close();
      }
    });
  });

  describe('descriptors', () => {
    it.each(payloads)('%s with 1, 2, 9, 17 and 64 descriptors too many', async (_, code, payload) => {
      for (const extra of [1, 2, 9, 17, 64]) {
        const frontend = await arena.negotiated();
        const fd = memfd(4096);
        const fds = Array.from({ length: extra }, () => fd);
        frontend.stream.send(code, payload, { fds, flags: FLAG.VERSION | FLAG.NEED_REPLY });
        await setTimeout(1);
        frontend.close();
      }
    });

    it('descriptors in the middle of a message, and then none', async () => {
      const frontend = arena.connect();
      const message = Buffer.concat([u32(MESSAGE.SET_FEATURES, FLAG.VERSION, 8), u64(0)]);
      for (let at = 0; at < message.length - 1; at++)
        await tolerate(
          (async () => frontend.stream.sendBytes(message.subarray(at, at + 1), [memfd(4096)]))(),
        );
      await setTimeout(5);
    });

    it.each([0, 1, 3, 8])('a memory table of two regions with %i descriptors', async (count) => {
      const frontend = await arena.negotiated();
      const table = memTable([{}, { gpa: MiB, userAddress: 0x7800_0000 }]);
      const fds = Array.from({ length: count }, () => memfd());
      await rejected(attempt(frontend, MESSAGE.SET_MEM_TABLE, table, fds));
    });

    it.each(oddDescriptors)('a memory region in %s', async (_, make) => {
      const frontend = await arena.negotiated();
      await tolerate(
        attempt(frontend, MESSAGE.SET_MEM_TABLE, memTable([{}]), [arena.own(make(scratch.path))]),
      );
    });

    it.each(oddDescriptors)('%s for a kick, a call and an error', async (name, make) => {
      for (const code of [MESSAGE.SET_VRING_KICK, MESSAGE.SET_VRING_CALL, MESSAGE.SET_VRING_ERR]) {
        const frontend = await arena.negotiated();
        const outcome = await attempt(frontend, code, u64(0), [arena.own(make(scratch.path))]);
        if (name === 'an eventfd') expect(outcome).toBe('taken');
        await arena.checkInnocent();
        frontend.close();
      }
    });

    it.each(oddDescriptors)('%s for a kick of a ring that runs', async (_, make) => {
      const disk = await arena.disk();
      await disk.read(0, 512);
      await attempt(disk.frontend, MESSAGE.SET_VRING_KICK, u64(0), [arena.own(make(scratch.path))]);
      expect(await arena.idleLoad()).toBeLessThan(0.15);
    });

    it.each(oddDescriptors)('%s for the back-end channel', async (_, make) => {
      const frontend = await arena.negotiated();
      await attempt(frontend, MESSAGE.SET_BACKEND_REQ_FD, undefined, [arena.own(make(scratch.path))]);
    });

    it('a kick message without a descriptor and without saying so', async () => {
      const frontend = await arena.negotiated();
      await rejected(attempt(frontend, MESSAGE.SET_VRING_KICK, u64(0)));
    });

    it('a kick message with a descriptor that says there is none', async () => {
      const frontend = await arena.negotiated();
      await attempt(frontend, MESSAGE.SET_VRING_KICK, u64(VRING_NO_FD), [eventfd()]);
    });

    it('a hundred replacements of every descriptor', async () => {
      const disk = await arena.disk();
      for (let i = 0; i < 100; i++) {
        await disk.frontend.setVringKick(0, eventfd());
        await disk.frontend.setVringCall(0, eventfd());
        await disk.frontend.setVringErr(0, eventfd());
        await disk.frontend.openBackendChannel();
      }
    });
  });

  describe('memory tables', () => {
    const huge = 256 * GiB;
    const tables: [name: string, regions: Region[], fileBytes: number, count?: number][] = [
      ['no region', [], MiB],
      ['an empty region', [{ sizeBytes: 0 }], MiB],
      ['a GPA off the page', [{ gpa: 512 }], 2 * MiB],
      ['an offset off the page', [{ mmapOffsetBytes: 513 }], 2 * MiB],
      ['regions that overlap in GPA', [{}, { gpa: MiB / 2, userAddress: 0x7800_0000 }], MiB],
      ['the same region twice', [{}, {}], MiB],
      ['regions that overlap in user addresses', [{}, { gpa: 4 * MiB, userAddress: 0x7000_1000 }], MiB],
      [
        'a region inside another',
        [{ sizeBytes: MiB }, { gpa: 4096, sizeBytes: 4096, userAddress: 1 << 30 }],
        MiB,
      ],
      ['a GPA that wraps', [{ gpa: (1n << 64n) - 4096n, sizeBytes: MiB }], MiB],
      ['a GPA of 2^63', [{ gpa: 1n << 63n }], MiB],
      ['a GPA of 2^52', [{ gpa: 1n << 52n }], MiB],
      ['a GPA that ends past 52 bits', [{ gpa: (1n << 52n) - 4096n }], MiB],
      ['regions 4 TiB apart', [{}, { gpa: 1n << 42n, userAddress: 0x7800_0000 }], MiB],
      ['a user address that wraps', [{ userAddress: (1n << 64n) - 4096n }], MiB],
      ['an offset that wraps', [{ mmapOffsetBytes: (1n << 64n) - 4096n }], MiB],
      ['an offset of 2^63', [{ mmapOffsetBytes: 1n << 63n }], MiB],
      ['a size of 2^64 - 4096', [{ sizeBytes: (1n << 64n) - 4096n }], MiB],
      ['a size of 2^63', [{ sizeBytes: 1n << 63n }], MiB],
      ['a size past the end of the file', [{ sizeBytes: 2 * MiB }], MiB],
      ['an offset past the end of the file', [{ mmapOffsetBytes: MiB }], MiB],
      ['nine regions', Array.from({ length: 9 }, (_, i) => ({ gpa: i * MiB, userAddress: i * MiB })), MiB],
      ['300 regions', Array.from({ length: 300 }, (_, i) => ({ gpa: i * MiB, userAddress: i * MiB })), MiB],
      ['a count of 2^32 - 1', [{}], MiB, 0xffff_ffff],
      ['a count of 8 with one region', [{}], MiB, 8],
      ['a count of 0 with one region', [{}], MiB, 0],
      ['a region of 16 TiB in a file as great', [{ sizeBytes: 16_384 * GiB }], 16_384 * GiB],
    ];
    it.each(tables)('%s', async (_, regions, fileBytes, count) => {
      const frontend = await arena.negotiated();
      const fds = regions.slice(0, 60).map(() => memfd(fileBytes));
      await rejected(attempt(frontend, MESSAGE.SET_MEM_TABLE, memTable(regions, count), fds));
    });

    it('a region of 256 GiB is taken, and let go again', async () => {
      const frontend = await arena.negotiated();
      expect(
        await attempt(frontend, MESSAGE.SET_MEM_TABLE, memTable([{ sizeBytes: huge }]), [memfd(huge)]),
      ).toBe('taken');
      await frontend.getVringBase(0);
    });

    it('a hundred memory tables, one after the other, while rings run', async () => {
      const disk = await arena.disk();
      for (let i = 0; i < 100; i++) {
        const read = disk.read(0, 4096);
        await disk.frontend.setMemTable(disk.ram);
        await read;
      }
    });

    it('a memory table without the memory of the rings that run', async () => {
      const disk = await arena.disk();
      await disk.read(0, 512);
      const other = new GuestRam([{ gpa: 0x8000_0000, sizeBytes: MiB }]);
      arena.later(() => other.close());
      const [region] = other.regions;
      const table = Buffer.concat([u32(1, 0), regionBytes({ ...region!, userAddress: 0x1000_0000 })]);
      await rejected(attempt(disk.frontend, MESSAGE.SET_MEM_TABLE, table, [region!.fd]));
    });
  });

  describe('memory that vanishes', () => {
    it('under a data buffer', async () => {
      const disk = await arena.disk({ ringRegion: 0 });
      await disk.read(0, 512);
      const { ram } = disk;
      const header = ram.allocate(16, 16, 0);
      const status = ram.allocate(1, 1, 0);
      const data = ram.allocate(MiB, 4096, 1);
      ram.setU32(header, BLK_TYPE.OUT);
      ftruncateSync(ram.regions[1]!.fd, 0);
      await tolerate(
        disk.raw(disk.queues[0]!, [
          { gpa: header, lengthBytes: 16, writable: false },
          { gpa: data, lengthBytes: MiB, writable: false },
          { gpa: status, lengthBytes: 1, writable: true },
        ]),
      );
      if (!disk.frontend.stream.isClosed()) expect(ram.bytes(status, 1)[0]).toBe(BLK_STATUS.IOERR);
    });

    it.each(['header', 'status', 'indirect'] as const)('under the %s', async (what) => {
      const disk = await arena.disk({ ringRegion: 0 });
      await disk.read(0, 512);
      const { ram } = disk;
      const where = (part: string) => (part === what ? 1 : 0);
      const header = ram.allocate(16, 16, where('header'));
      const status = ram.allocate(1, 1, where('status'));
      const data = ram.allocate(4096, 4096, 0);
      ram.setU32(header, BLK_TYPE.IN);
      const { driver } = disk.queues[0]!;
      const table = ram.allocate(48, 16, where('indirect'));
      driver.writeDescriptorAt(table, { gpa: header, lengthBytes: 16, flags: 1, next: 1 });
      driver.writeDescriptorAt(table + 16, { gpa: data, lengthBytes: 4096, flags: 3, next: 2 });
      driver.writeDescriptorAt(table + 32, { gpa: status, lengthBytes: 1, flags: 2, next: 0 });
      const index = driver.takeDescriptor();
      driver.writeDescriptor(index, { gpa: table, lengthBytes: 48, flags: 4, next: 0 });
      ftruncateSync(ram.regions[1]!.fd, 0);
      driver.offerRaw(index);
      disk.queues[0]!.kick();
      expect(await disk.frontend.closedByBackend(2_000)).toBe(true);
    });

    it('under the rings', async () => {
      const disk = await arena.disk({ ringRegion: 1 });
      await disk.read(0, 512);
      const kicks = disk.queues;
      ftruncateSync(disk.ram.regions[1]!.fd, 0);
      for (const queue of kicks) queue.kick();
      expect(await disk.frontend.closedByBackend(2_000)).toBe(true);
    });

    it('between mapping and starting the rings', async () => {
      const disk = await arena.disk({ ringRegion: 1 });
      await disk.stop();
      ftruncateSync(disk.ram.regions[1]!.fd, 0);
      const ready = disk.frontend
        .setVringKick(0, eventfd())
        .then(() => disk.frontend.setVringEnable(0, true));
      await tolerate(ready);
      await setTimeout(20);
    });

    it('a hundred times', async () => {
      for (let i = 0; i < 100; i++) {
        const disk = await FakeBlkDisk.open(arena.victimSocket, { ringRegion: 1, notify: 'poll' });
        ftruncateSync(disk.ram.regions[1]!.fd, 0);
        disk.queues[0]!.kick();
        expect(await disk.frontend.closedByBackend(2_000)).toBe(true);
        disk.close();
      }
    });
  });

  describe('vrings', () => {
    const indices = [QUEUES, 127, 255, 0x7fff_ffff, 0xffff_ffff];
    it.each(indices)('ring index %i in every message', async (index) => {
      const messages: [number, Buffer, boolean?][] = [
        [MESSAGE.SET_VRING_NUM, u32(index, 128)],
        [MESSAGE.SET_VRING_ADDR, Buffer.concat([u32(index, 0), u64(0, 0, 0, 0)])],
        [MESSAGE.SET_VRING_BASE, u32(index, 0)],
        [MESSAGE.SET_VRING_ENABLE, u32(index, 1)],
        [MESSAGE.SET_VRING_KICK, u64(index & ~VRING_NO_FD), true],
        [MESSAGE.SET_VRING_CALL, u64(index & ~VRING_NO_FD), true],
        [MESSAGE.SET_VRING_ERR, u64(index & ~VRING_NO_FD), true],
      ];
      for (const [code, payload, wantsFd] of messages) {
        const frontend = await arena.negotiated();
        const narrow = wantsFd === true && (index & 0xff) < QUEUES;
        const outcome = await attempt(frontend, code, payload, wantsFd ? [eventfd()] : []);
        if (!narrow) expect(['refused', 'disconnected'], `message ${code}`).toContain(outcome);
        frontend.close();
      }
      const frontend = await arena.negotiated();
      await expect(frontend.getVringBase(index)).rejects.toThrow();
    });

    it.each([0, 3, 5, 127, 129, 32_767, 65_536, 0x1_0001, 0x8000_0000, 0xffff_ffff])(
      'a ring of %i entries',
      async (size) => {
        const frontend = await arena.negotiated();
        await rejected(attempt(frontend, MESSAGE.SET_VRING_NUM, u32(0, size)));
      },
    );

    it('a base past 16 bits', async () => {
      const frontend = await arena.negotiated();
      await attempt(frontend, MESSAGE.SET_VRING_BASE, u32(0, 0x1_0005));
    });

    /** Memory and rings set up, with one thing wrong. */
    const startWith = async (wrong: {
      desc?: number | bigint;
      avail?: number | bigint;
      used?: number | bigint;
      size?: number;
    }) => {
      const frontend = await arena.negotiated();
      const ram = new GuestRam([{ gpa: 0, sizeBytes: MiB }]);
      arena.later(() => ram.close());
      const base = ram.regions[0]!.userAddress;
      await frontend.setMemTable(ram);
      await frontend.setVringNum(0, wrong.size ?? 128);
      const at = { desc: base, avail: base + 0x4000, used: base + 0x8000, ...wrong };
      const kick = eventfd();
      await tolerate(
        (async () => {
          await frontend.setVringAddr(0, at);
          await frontend.setVringKick(0, kick);
          await frontend.setVringCall(0, eventfd());
          await frontend.setVringEnable(0, true);
        })(),
      );
      native.signal(kick);
      await setTimeout(10);
    };
    const base = 0x5550_0000_0000;
    it.each([
      ['descriptors at 0', { desc: 0 }],
      ['avail ring at 0', { avail: 0 }],
      ['used ring at 0', { used: 0 }],
      [
        'addresses at the end of 64 bits',
        { desc: (1n << 64n) - 16n, avail: (1n << 64n) - 2n, used: (1n << 64n) - 4n },
      ],
      ['addresses of 2^53 + 1', { desc: (1n << 53n) + 1n }],
      ['a descriptor table across the end of its region', { desc: base + MiB - 16 * 127 }],
      ['an avail ring across the end of its region', { avail: base + MiB - 2 * 128 }],
      ['a used ring across the end of its region', { used: base + MiB - 8 * 128 }],
      ['an avail ring whose used_event only is outside', { avail: base + MiB - 4 - 2 * 128 }],
      ['a used ring whose avail_event only is outside', { used: base + MiB - 4 - 8 * 128 }],
      ['a descriptor table off its alignment', { desc: base + 8 }],
      ['an avail ring off its alignment', { avail: base + 0x4001 }],
      ['a used ring off its alignment', { used: base + 0x8002 }],
      ['the three parts on one another', { desc: base, avail: base, used: base }],
      ['32768 entries that do not fit', { size: 32_768 }],
    ])('%s', async (_, wrong) => {
      await startWith(wrong);
    });

    it('everything in the wrong order', async () => {
      const frontend = await arena.negotiated();
      const kick = eventfd();
      const order = async () => {
        await frontend.setVringEnable(0, true);
        native.signal(kick);
        await frontend.setVringKick(0, kick);
        await frontend.setVringCall(0, eventfd());
        await frontend.getVringBase(0);
        await frontend.setVringKick(0, kick);
        await frontend.setVringBase(0, 77);
        await frontend.setVringNum(0, 64);
        native.signal(kick);
        await frontend.setVringEnable(1, true);
        await frontend.getVringBase(1);
      };
      await tolerate(order());
    });

    it('a kick before there is any memory', async () => {
      const frontend = arena.connect();
      const kick = eventfd();
      await frontend.setVringKick(0, kick);
      await frontend.setVringEnable(0, true);
      for (let i = 0; i < 100; i++) native.signal(kick);
      await setTimeout(10);
    });

    it.each([
      ['size', (f: FakeFrontend) => attempt(f, MESSAGE.SET_VRING_NUM, u32(0, 64))],
      ['base', (f: FakeFrontend) => attempt(f, MESSAGE.SET_VRING_BASE, u32(0, 999))],
      [
        'addresses',
        (f: FakeFrontend) => attempt(f, MESSAGE.SET_VRING_ADDR, Buffer.concat([u32(0, 0), u64(1, 2, 3, 4)])),
      ],
      ['features', (f: FakeFrontend) => attempt(f, MESSAGE.SET_FEATURES, u64(bits(30, 32)))],
    ])('the %s of a ring that runs', async (_, change) => {
      const disk = await arena.disk();
      const reads = Promise.allSettled(Array.from({ length: 30 }, () => disk.read(0, 65_536)));
      await change(disk.frontend);
      disk.close();
      await reads;
    });

    it('rings stopped, started and enabled at random under requests', async () => {
      const disk = await arena.disk({ numQueues: 1 });
      const { frontend, queues } = disk;
      const reads = Promise.allSettled(Array.from({ length: 40 }, () => disk.read(0, 65_536)));
      for (let i = 0; i < 20; i++) {
        await frontend.setVringEnable(0, false);
        await frontend.setVringEnable(0, true);
        await frontend.setVringKick(0, queues[0]!.kickFd);
        queues[0]!.kick();
      }
      expect((await reads).filter(({ status }) => status === 'rejected')).toEqual([]);
    });
  });

  describe('features and configuration', () => {
    it.each([(1n << 64n) - 1n, bits(34), bits(26), bits(63), bits(0), bits(13), bits(14)])(
      'features %i that were not offered',
      async (features) => {
        const frontend = arena.connect();
        const offered = await frontend.getFeatures();
        if ((features & ~offered) === 0n) return;
        await frontend.setProtocolFeatures(bits(3));
        await rejected(attempt(frontend, MESSAGE.SET_FEATURES, u64(features)));
      },
    );

    it('protocol features that were not offered', async () => {
      const frontend = await arena.negotiated();
      await rejected(attempt(frontend, MESSAGE.SET_PROTOCOL_FEATURES, u64((1n << 64n) - 1n)));
    });

    it.each([
      [0, 257],
      [200, 100],
      [0xffff_ffff, 1],
      [0xffff_fff0, 0x20],
      [256, 1],
      [0, 0],
    ])('configuration read at %i, %i bytes', async (offset, size) => {
      const frontend = await arena.negotiated();
      await tolerate(frontend.getConfig(offset, size));
    });

    it.each([
      ['more bytes than it sends', u32(0, 60, 0)],
      ['2^32 - 1 bytes', u32(0, 0xffff_ffff, 0)],
    ])('a configuration message that claims %s', async (_, payload) => {
      for (const code of [MESSAGE.GET_CONFIG, MESSAGE.SET_CONFIG]) {
        const frontend = await arena.negotiated();
        frontend.stream.send(code, payload, { flags: FLAG.VERSION | FLAG.NEED_REPLY });
        await setTimeout(2);
        frontend.close();
      }
    });

    it.each([
      ['the capacity', 0, Buffer.alloc(8, 0xff)],
      ['a byte after the cache mode', 33, Buffer.from([1])],
      ['the cache mode and what follows', 32, Buffer.alloc(4)],
      ['the cache mode, with an odd value', 32, Buffer.from([2])],
      ['the last bytes and more', 0xffff_ffff, Buffer.from([1])],
      ['all of it', 0, Buffer.alloc(256)],
    ])('a configuration write to %s', async (_, offset, bytes) => {
      const disk = await arena.disk();
      await rejected(
        disk.frontend.setConfig(offset, bytes).then(
          () => 'taken',
          (error: Error) => error.name.toLowerCase(),
        ),
      );
      disk.close();
      const reader = await FakeBlkDisk.open(arena.victimSocket);
      expect(reader.config).toMatchObject({ capacitySectors: DISK_BYTES / 512, writeback: 1 });
      reader.close();
    });
  });

  describe('flow', () => {
    it('a front-end that never reads its replies', async () => {
      const frontend = arena.connect();
      const one = u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0);
      const many = Buffer.concat(Array.from({ length: 200 }, () => one));
      const none = new Int32Array(0);
      for (let i = 0; i < 2_000; i++) {
        if (native.send(frontend.stream.fd, many, 0, many.length, none, 0) < 0) await setImmediate();
      }
      await arena.checkInnocent();
    });

    it('three hundred connections that say nothing', async () => {
      for (let i = 0; i < 300; i++) {
        arena.connect().close();
        if (i % 10 === 0) await setImmediate();
      }
    });

    it('a second front-end, whose rings wait for the first to go', async () => {
      const first = await arena.disk();
      const second = FakeBlkDisk.open(arena.victimSocket, { notify: 'poll' });
      await first.read(0, 512);
      first.close();
      const disk = await second;
      await disk.read(0, 512);
      disk.close();
    });

    it('gone with requests in flight, twenty times', async () => {
      for (let i = 0; i < 20; i++) {
        const disk = await FakeBlkDisk.open(arena.victimSocket, { numQueues: QUEUES });
        const reads = Promise.allSettled(
          Array.from({ length: 30 }, (_, at) => disk.read(0, 65_536, { queue: at % QUEUES })),
        );
        if (i % 2) await setImmediate();
        disk.close();
        await reads;
      }
    });

    it('stopped with requests in flight: they are completed before the answer', async () => {
      const disk = await arena.disk();
      const reads = Array.from({ length: 60 }, (_, at) => disk.read(0, 65_536, { queue: at % QUEUES }));
      const bases = await disk.stop();
      expect(bases.map((base, i) => (base - disk.queues[i]!.driver.usedIdx) & 0xffff)).toEqual([0, 0]);
      await disk.start();
      for (const queue of disk.queues) queue.kick();
      await Promise.all(reads);
    });
  });
});
