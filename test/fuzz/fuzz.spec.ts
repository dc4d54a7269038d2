import { closeSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import {
  type FakeBlkDisk,
  type FakeFrontend,
  FLAG,
  MESSAGE,
  regionBytes,
  type FakeQueue,
} from '@cairn/vhost-user/testing';
import { BLK_TYPE, DESC, bits, type GuestRam } from '@cairn/virtio/testing';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { Random } from '../support/random.js';
import { HostileArena, QUEUES, tolerate } from './hostile-arena.js';

/**
 * Starts from an honest, running disk and then breaks things at random: mostly valid structures with one field off.
 *
 * A seed repeats its choices. CAIRN_FUZZ_SECONDS runs on for that long from CAIRN_FUZZ_SEED (default 1) on.
 */
const SECONDS = Number(process.env['CAIRN_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['CAIRN_FUZZ_SEED'] ?? 1);
const CI_SEEDS = 60;
const STEPS = 60;

const codes = Object.values(MESSAGE);
const interesting64 = [
  0n,
  1n,
  511n,
  4095n,
  4096n,
  1n << 31n,
  (1n << 32n) - 1n,
  1n << 32n,
  1n << 47n,
  1n << 53n,
];
const interesting = [...interesting64, ...interesting64.map((value) => (1n << 64n) - 1n - value), 1n << 63n];

const number64 = (random: Random): bigint =>
  random.chance(0.7)
    ? random.pick(interesting) + BigInt(random.below(3)) - 1n
    : (BigInt(random.u32()) << 32n) | BigInt(random.u32());
const number32 = (random: Random): number => Number(BigInt.asUintN(32, number64(random)));

const someGpa = (random: Random, ram: GuestRam): bigint => {
  if (random.chance(0.1)) return number64(random);
  const { gpa, sizeBytes } = random.pick(ram.regions);
  return BigInt(gpa) + BigInt(random.chance(0.1) ? sizeBytes - random.below(64) : random.below(sizeBytes));
};

/** A chain that is nearly right. */
const nearlyChain = (random: Random, { driver }: FakeQueue, ram: GuestRam): void => {
  const count = 1 + random.below(6);
  const indices = Array.from({ length: count }, () => random.below(driver.size));
  const header = ram.allocate(16, 1 << random.below(5));
  ram.setU32(header, random.chance(0.9) ? random.pick(Object.values(BLK_TYPE)) : number32(random));
  ram.setU64(header + 8, random.chance(0.8) ? random.below(20_000) : number64(random));
  const table = random.chance(0.4) ? ram.allocate(16 * count, random.chance(0.9) ? 16 : 1) : undefined;
  for (let i = 0; i < count; i++) {
    const last = i === count - 1;
    const at = table === undefined ? driver.descGpa + 16 * indices[i]! : table + 16 * i;
    const next = table === undefined ? (indices[i + 1] ?? 0) : i + 1;
    const flags = (last ? 0 : DESC.NEXT) | (i > 0 && (last || random.chance(0.6)) ? DESC.WRITE : 0);
    driver.writeDescriptorAt(at, {
      gpa: i === 0 && random.chance(0.9) ? header : someGpa(random, ram),
      lengthBytes: random.chance(0.1) ? number32(random) : last ? 1 : i === 0 ? 16 : 512 * random.below(256),
      flags: random.chance(0.05) ? random.below(0x10000) : flags,
      next: random.chance(0.03) ? random.below(0x10000) : next,
    });
  }
  if (table !== undefined) {
    const lengthBytes = random.chance(0.05) ? number32(random) : 16 * count;
    const flags = random.chance(0.05) ? random.below(16) : DESC.INDIRECT;
    driver.writeDescriptor(indices[0]!, { gpa: table, lengthBytes, flags, next: 0 });
    ram.free(table);
  }
  driver.offerRaw(random.chance(0.02) ? random.below(0x10000) : indices[0]!);
  ram.free(header);
};

/** A ring field with something in it that does not belong there. */
const scribble = (random: Random, { driver }: FakeQueue, ram: GuestRam): void => {
  const value = random.below(0x10000);
  switch (random.below(6)) {
    case 0:
      return driver.setAvailIdx(driver.nextAvail + (random.chance(0.5) ? value : random.below(4)));
    case 1:
      return driver.setAvailFlags(value);
    case 2:
      return driver.setUsedEvent(value);
    case 3:
      return ram.storeU16(driver.usedGpa + 2, value);
    case 4:
      return driver.setAvailEntry(value, random.below(0x10000));
    default: {
      const at = Math.min(random.below(driver.size), driver.size - 4);
      ram.bytes(driver.descGpa + 16 * at, 64).set(random.bytes(64));
    }
  }
};

/** A payload that suits the code, nearly. */
const nearlyPayload = (random: Random, code: number, ram: GuestRam): Buffer => {
  const words = (...values: number[]) => {
    const out = Buffer.alloc(4 * values.length);
    values.forEach((value, i) =>
      out.writeUInt32LE((random.chance(0.1) ? number32(random) : value) >>> 0, 4 * i),
    );
    return out;
  };
  const longs = (...values: bigint[]) => {
    const out = Buffer.alloc(8 * values.length);
    values.forEach((value, i) =>
      out.writeBigUInt64LE(BigInt.asUintN(64, random.chance(0.1) ? number64(random) : value), 8 * i),
    );
    return out;
  };
  const ring = random.below(QUEUES);
  const user = () => BigInt(random.pick(ram.regions).userAddress + 64 * random.below(4_000));
  switch (code) {
    case MESSAGE.SET_FEATURES:
      return longs(bits(28, 29, 30, 32, 9));
    case MESSAGE.SET_PROTOCOL_FEATURES:
      return longs(bits(0, 3, 5, 9));
    case MESSAGE.SET_MEM_TABLE:
      return Buffer.concat([words(ram.regions.length, 0), ...ram.regions.map(regionBytes)]);
    case MESSAGE.SET_VRING_NUM:
      return words(ring, 1 << random.below(17));
    case MESSAGE.SET_VRING_ADDR:
      return Buffer.concat([words(ring, 0), longs(user(), user(), user(), 0n)]);
    case MESSAGE.SET_VRING_BASE:
      return words(ring, random.below(0x10000));
    case MESSAGE.GET_VRING_BASE:
      return words(ring, 0);
    case MESSAGE.SET_VRING_ENABLE:
      return words(ring, random.below(2));
    case MESSAGE.SET_VRING_KICK:
    case MESSAGE.SET_VRING_CALL:
    case MESSAGE.SET_VRING_ERR:
      return longs(BigInt(ring | (random.chance(0.2) ? 0x100 : 0)));
    case MESSAGE.GET_CONFIG:
    case MESSAGE.SET_CONFIG: {
      const sizeBytes = random.below(80);
      return Buffer.concat([words(random.pick([0, 32, 20, 250]), sizeBytes, 0), random.bytes(sizeBytes)]);
    }
    default:
      return random.chance(0.5) ? Buffer.alloc(0) : random.bytes(random.below(64));
  }
};

const nearlyMessage = (random: Random, frontend: FakeFrontend, ram: GuestRam): void => {
  const code = random.chance(0.95) ? random.pick(codes) : number32(random);
  let payload = nearlyPayload(random, code, ram);
  if (random.chance(0.05)) payload = Buffer.concat([payload, random.bytes(1 + random.below(16))]);
  if (random.chance(0.05)) payload = payload.subarray(0, random.below(payload.length + 1));
  const own: number[] = [];
  const fds: number[] = [];
  if (code === MESSAGE.SET_MEM_TABLE) fds.push(...ram.regions.map(({ fd }) => fd));
  else if (code >= MESSAGE.SET_VRING_KICK && code <= MESSAGE.SET_VRING_ERR && random.chance(0.8))
    own.push(check('eventfd', native.eventfd(EFD_NONBLOCK)));
  if (random.chance(0.05)) own.push(check('memfd', native.memfd('fuzz', 4096 * random.below(3))));
  if (random.chance(0.05)) fds.pop();
  const flags = random.chance(0.03)
    ? number32(random)
    : FLAG.VERSION | (random.chance(0.8) ? FLAG.NEED_REPLY : 0);
  const sizeBytes = random.chance(0.03) ? number32(random) : payload.length;
  try {
    frontend.stream.send(code, payload, { fds: [...fds, ...own], flags, sizeBytes });
    frontend.stream.poll();
  } finally {
    for (const fd of own) closeSync(fd);
  }
};

/** Resets the device, as a driver does that goes on after it broke a ring. */
const restart = async (disk: FakeBlkDisk): Promise<void> => {
  await disk.stop();
  disk.resetRings();
  await disk.start();
};

const attack = async (random: Random, disk: FakeBlkDisk): Promise<void> => {
  const { frontend, ram, queues } = disk;
  const ofRings = random.chance(0.6);
  for (const queue of queues) queue.ignored = true;
  for (let step = 0; step < STEPS; step++) {
    const queue = random.pick(queues);
    if (ofRings ? random.chance(0.97) : random.chance(0.3)) {
      if (random.chance(0.85)) nearlyChain(random, queue, ram);
      else scribble(random, queue, ram);
      if (random.chance(0.8)) queue.kick();
    } else {
      nearlyMessage(random, frontend, ram);
    }
    if (random.chance(0.2)) await setImmediate();
    if (ofRings && queue.sawError()) await restart(disk);
  }
};

describe('the structure-aware fuzzer', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());

  const run = async (seed: number) => {
    const random = new Random(seed);
    const disk = await arena.disk({ numQueues: QUEUES, queueSize: 1 << (2 + random.below(6)) });
    await tolerate(attack(random, disk));
    try {
      await arena.verify();
    } catch (error) {
      throw new Error(`CAIRN_FUZZ_SEED=${seed}: ${String(error)}`, { cause: error });
    }
  };

  it(`finds nothing with the seeds ${FIRST_SEED} to ${FIRST_SEED + CI_SEEDS - 1}`, async () => {
    for (let seed = FIRST_SEED; seed < FIRST_SEED + CI_SEEDS; seed++) await run(seed);
  });

  it.runIf(SECONDS > 0)(
    `finds nothing in ${SECONDS} seconds`,
    async () => {
      const end = performance.now() + SECONDS * 1000;
      for (let seed = FIRST_SEED + CI_SEEDS; performance.now() < end; seed++) await run(seed);
    },
    (SECONDS + 60) * 1000,
  );
});
