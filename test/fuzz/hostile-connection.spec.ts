import { setImmediate, setTimeout } from 'node:timers/promises';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import { DirtyBitmap, FLAG, MESSAGE, regionBytes } from '@cairn/vhost-user/testing';
import { BLK_TYPE, bits, RING_FEATURE } from '@cairn/virtio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { HostileArena, tolerate } from './hostile-arena.js';
import type { RawGuest } from './raw-guest.js';
import { inflightBytes, u32, u64 } from './wire-bytes.js';

const KiB = 1024;
/** How many `messages` there are. */
const MESSAGES = 15;

/** A message in bytes, with the descriptors that belong to it. */
interface Whole {
  bytes: Buffer;
  fds: number[];
}

describe('a front-end that comes and goes as it likes costs only its connection', () => {
  let arena: HostileArena;
  beforeAll(async () => {
    arena = await HostileArena.start();
  });
  afterAll(() => arena.close());
  afterEach(() => arena.verify());

  const eventfd = () => arena.own(check('eventfd', native.eventfd(EFD_NONBLOCK)));
  const memfd = (sizeBytes: number) => arena.own(check('memfd', native.memfd('hostile', sizeBytes)));

  /** Each message that a front-end sends to a running device, as it ought to be. */
  const messages = ({ ram, features }: RawGuest): (() => Whole)[] => {
    const whole = (code: number, payload: Uint8Array, fds: number[] = []): Whole => ({
      bytes: Buffer.concat([u32(code, FLAG.VERSION | FLAG.NEED_REPLY, payload.length), payload]),
      fds,
    });
    const memory = ram.regions.map(({ fd }) => fd);
    const table = Buffer.concat([u32(ram.regions.length, 0), ...ram.regions.map(regionBytes)]);
    const extra = { gpa: 0x8_0000_0000, sizeBytes: 4096, userAddress: 0x1000_0000, mmapOffsetBytes: 0 };
    return [
      () => whole(MESSAGE.SET_FEATURES, u64(features | bits(RING_FEATURE.LOG_ALL))),
      () => whole(MESSAGE.SET_MEM_TABLE, table, memory),
      () => whole(MESSAGE.ADD_MEM_REG, Buffer.concat([u64(0), regionBytes(extra)]), [memfd(4096)]),
      () => whole(MESSAGE.SET_LOG_BASE, u64(64 * KiB, 0), [memfd(64 * KiB)]),
      () => whole(MESSAGE.SET_LOG_FD, Buffer.alloc(0), [eventfd()]),
      () => whole(MESSAGE.SET_VRING_KICK, u64(0), [eventfd()]),
      () => whole(MESSAGE.SET_VRING_CALL, u64(0), [eventfd()]),
      () => whole(MESSAGE.SET_VRING_ERR, u64(0), [eventfd()]),
      () => whole(MESSAGE.SET_VRING_ENABLE, u32(0, 0)),
      () => whole(MESSAGE.GET_VRING_BASE, u32(0, 0)),
      () => whole(MESSAGE.SET_BACKEND_REQ_FD, Buffer.alloc(0), [eventfd()]),
      () => whole(MESSAGE.GET_INFLIGHT_FD, inflightBytes(0, 0, 2, 64)),
      () => whole(MESSAGE.SET_INFLIGHT_FD, inflightBytes(8192, 0, 2, 64), [memfd(8192)]),
      () => whole(MESSAGE.RESET_DEVICE, Buffer.alloc(0)),
      () => whole(MESSAGE.SET_STATUS, u64(0)),
    ];
  };

  /** Sends, and does not care whether anybody takes it. */
  const send = (guest: RawGuest, bytes: Uint8Array, fds: number[] = []) =>
    tolerate((async () => guest.frontend.stream.sendBytes(bytes, fds))());

  /** As many reads as fit, not waited for. */
  const load = (guest: RawGuest) => {
    for (let index = 0; index < 16; index += 1)
      guest.submit(index % 2, guest.place(BLK_TYPE.IN, 0, { inBytes: 64 * KiB }));
  };

  it('has the right number of messages at hand', async () => {
    expect(messages(await arena.guest())).toHaveLength(MESSAGES);
  });

  it('gone in the middle of each message, with descriptors on their way', async () => {
    for (let index = 0; index < MESSAGES; index += 1) {
      for (const part of [1, 4, 11, 12, 13]) {
        const guest = await arena.guest();
        const { bytes, fds } = messages(guest)[index]!();
        await send(guest, bytes.subarray(0, Math.min(part, bytes.length - 1)), fds);
        guest.close();
      }
    }
  });

  it('gone while each message waits for requests in flight', async () => {
    for (let index = 0; index < MESSAGES; index += 1) {
      const guest = await arena.guest();
      load(guest);
      const { bytes, fds } = messages(guest)[index]!();
      await send(guest, bytes, fds);
      if (index % 2) await setImmediate();
      guest.close();
    }
  });

  it('with the descriptors of each message on its second half', async () => {
    for (let index = 0; index < MESSAGES; index += 1) {
      const guest = await arena.guest();
      const { bytes, fds } = messages(guest)[index]!();
      await send(guest, bytes.subarray(0, 6));
      await setTimeout(2);
      await send(guest, bytes.subarray(6), fds);
      await setTimeout(2);
      guest.close();
    }
  });

  it('with the descriptors of each message on every byte of it', async () => {
    for (let index = 0; index < MESSAGES; index += 1) {
      const guest = await arena.guest();
      const { bytes, fds } = messages(guest)[index]!();
      for (const byte of bytes) await send(guest, Uint8Array.of(byte), fds);
      guest.close();
    }
  });

  it('with a byte now and then while its rings are busy', async () => {
    const guest = await arena.guest();
    const bytes = u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0);
    for (const byte of bytes) {
      guest.frontend.stream.sendBytes(Uint8Array.of(byte));
      await guest.read();
      await setTimeout(5);
    }
    expect((await guest.frontend.receiveReply(MESSAGE.GET_FEATURES)).payload).toHaveLength(8);
  });

  it('five hundred times, with nothing, half a message, or one and a descriptor', async () => {
    for (let index = 0; index < 500; index += 1) {
      const frontend = arena.connect();
      const message = u32(MESSAGE.SET_VRING_KICK, FLAG.VERSION, 8);
      if (index % 3 > 0)
        await tolerate(
          (async () => frontend.stream.sendBytes(message, index % 3 === 2 ? [eventfd()] : []))(),
        );
      frontend.close();
      if (index % 8 === 0) await setImmediate();
    }
  });

  it('sees the end of its connection, whatever it has sent behind the message that broke a rule', async () => {
    for (let index = 0; index < 40; index += 1) {
      const guest = await arena.guest();
      const ask = u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0);
      const wrong = u32(99, FLAG.VERSION, 0);
      await send(guest, Buffer.concat([ask, wrong, ...Array.from({ length: 50 }, () => ask)]));
      for (let more = 0; more < index; more += 1) await send(guest, ask);
      expect(await guest.frontend.closedByBackend()).toBe(true);
      guest.close();
    }
  });

  it('reads no answer while its requests are in flight and its log is written', async () => {
    const guest = await arena.guest();
    const log = new DirtyBitmap(0x1_0040_0000);
    arena.later(() => log.close());
    await guest.frontend.setLogBase(log);
    await guest.frontend.setFeatures(guest.features | bits(RING_FEATURE.LOG_ALL));
    load(guest);
    const many = Buffer.concat(Array.from({ length: 200 }, () => u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0)));
    const none = new Int32Array(0);
    const faults = await arena.faultsOf(async () => {
      for (let round = 0; round < 2_000 && !(await gone(guest, many, none)); round += 1);
      await expect.poll(async () => (await arena.report()).connected, { timeout: 10_000 }).toBe(false);
    });
    expect(faults).toEqual(['reply-not-taken']);
  });

  /** Sends as much as is taken; true when nobody takes it any more. */
  const gone = async ({ frontend }: RawGuest, bytes: Buffer, fds: Int32Array): Promise<boolean> => {
    const sent = native.send(frontend.stream.fd, bytes, 0, bytes.length, fds, 0);
    if (sent < 0) await setImmediate();
    return sent < 0 && sent !== -11;
  };
});
