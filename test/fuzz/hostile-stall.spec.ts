import { writeSync } from 'node:fs';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import { MESSAGE } from '@cairn/vhost-user/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { resizeExport } from '../support/export-process.js';
import { cpuMillis } from '../support/back-end.js';
import { HostileArena } from './hostile-arena.js';
import { u64 } from './wire-bytes.js';

const MiB = 2 ** 20;

/**
 * Brings an eventfd to where one more signal would block. The blocking mode belongs to the open file, so a front-end
 * can switch it on again after the back-end has switched it off.
 */
const fill = (fd: number, mode: 'blocking' | 'non-blocking') => {
  const most = Buffer.alloc(8);
  most.writeBigUInt64LE(2n ** 64n - 2n);
  check('setNonblocking', native.setNonblocking(fd, 1));
  native.consume(fd);
  writeSync(fd, most);
  if (mode === 'blocking') check('setNonblocking', native.setNonblocking(fd, 0));
};

describe('no front-end holds up the thread that serves others', () => {
  let arena: HostileArena;
  beforeEach(async () => {
    arena = await HostileArena.start();
  });
  afterEach(() => arena.close());

  const eventfd = () => arena.own(check('eventfd', native.eventfd(EFD_NONBLOCK)));

  it('with a call eventfd that is full', async () => {
    const disk = await arena.disk();
    const call = eventfd();
    await disk.frontend.setVringCall(0, call);
    disk.queues[0]!.driver.wantCalls(true);
    fill(call, 'non-blocking');
    await disk.read(0, 512);
    await arena.verify();
  });

  it('with a call eventfd that is full and blocks', async () => {
    const disk = await arena.disk();
    const call = eventfd();
    await disk.frontend.setVringCall(0, call);
    disk.queues[0]!.driver.wantCalls(true);
    fill(call, 'blocking');
    const read = disk.read(0, 512).catch(() => undefined);
    await setTimeout(50);
    await arena.checkInnocent();
    await read;
    await arena.verify();
  });

  it('with an error eventfd that is full and blocks', async () => {
    const disk = await arena.disk();
    const err = eventfd();
    await disk.frontend.setVringErr(0, err);
    fill(err, 'blocking');
    const queue = disk.queues[0]!;
    queue.driver.offerRaw(0xffff);
    queue.kick();
    await setTimeout(50);
    await arena.verify();
  });

  it('with a kick eventfd that blocks and is emptied behind its back', async () => {
    const disk = await arena.disk();
    const kick = eventfd();
    await disk.frontend.setVringKick(0, kick);
    check('setNonblocking', native.setNonblocking(kick, 0));
    for (let i = 0; i < 500; i++) {
      native.signal(kick);
      native.consume(kick);
      if (i % 10 === 0) await setImmediate();
    }
    await arena.verify();
  });

  it('with requests that are spread over a terabyte of memory', async () => {
    const [TiB, STEP, COUNT] = [2 ** 40, 2 ** 30, 1024];
    const guest = await arena.guest({ numQueues: 1, queueSize: COUNT, slots: true });
    const [ring] = guest.rings;
    // Sparse, and zeroes: wherever a header lies in it, it is that of a read of sector 0.
    const fd = arena.own(check('memfd', native.memfd('sparse', TiB)));
    await guest.frontend.tell(MESSAGE.ADD_MEM_REG, u64(0, TiB, TiB, 2 ** 45, 0), [fd]);
    const data = guest.ram.allocate(512, 512);
    const status = guest.ram.allocate(1, 1);
    const before = cpuMillis(arena.pid);
    const requests = Array.from({ length: COUNT }, (_, index) =>
      guest.submit(
        0,
        [
          { gpa: TiB + index * STEP, lengthBytes: 16, writable: false },
          { gpa: data, lengthBytes: 512, writable: true },
          { gpa: status, lengthBytes: 1, writable: true },
        ],
        { indirectAfter: 0, show: false },
      ),
    );
    ring!.publish();
    await arena.checkInnocent();
    for (const request of requests) expect(await guest.finish(request)).toBe(0);
    // Each place of its own once cost a garbage collection, of several milliseconds.
    expect(cpuMillis(arena.pid) - before).toBeLessThan(COUNT / 2);
    await arena.verify();
  });

  it.each(['blocking', 'non-blocking'])('with a %s back-end channel that is never read', async (mode) => {
    const disk = await arena.disk();
    const pair = new Int32Array(2);
    check('socketPair', native.socketPair(pair));
    const [ours, theirs] = [arena.own(pair[0]!), arena.own(pair[1]!)];
    expect(ours).not.toBe(theirs);
    await disk.frontend.tell(MESSAGE.SET_BACKEND_REQ_FD, undefined, [theirs]);
    check('setNonblocking', native.setNonblocking(theirs, 1));
    const none = new Int32Array(0);
    while (native.send(theirs, Buffer.alloc(12), 0, 12, none, 0) > 0);
    if (mode === 'blocking') check('setNonblocking', native.setNonblocking(theirs, 0));
    await resizeExport(arena.control, 16 * MiB, arena.served.files[0]!);
    await arena.checkInnocent();
    expect((await disk.readConfig()).capacitySectors).toBe((16 * MiB) / 512);
    await arena.verify();
  });
});
