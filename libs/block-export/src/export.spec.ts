import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { check, IO_URING, native } from '@cairn/native';
import { FakeBlkDisk, FakeFrontend } from '@cairn/vhost-user/testing';
import { BLK_STATUS, BLK_TYPE } from '@cairn/virtio';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ExportArena } from './export-arena.js';
import { Export } from './export.js';
import { byName } from './failure-names.js';
import type { RingPlaces } from './blk-backend.js';
import { Peers } from './peers.js';
import { Placement } from './placement.js';
import type { ExportSpec } from './reactor-protocol.js';
import { ReactorLoop } from './reactor-loop.js';
import { ReactorMetrics } from './reactor-metrics.js';
import { ShardDirectory, type ShardRequest } from './shard-directory.js';
import { ensureVolumeFile } from './volume-file.js';

const MIB = 2 ** 20;
const openDescriptors = () => readdirSync('/proc/self/fd').length;

describe('an export on its loop', () => {
  let before: number;
  let directory: string;
  let filePath: string;
  let socketPath: string;
  let loop: ReactorLoop;
  let exports: Export[];
  let disks: FakeBlkDisk[];
  let sleeps: number;
  let places: RingPlaces;
  let arenas: Map<Export, ExportArena>;

  beforeEach(() => {
    before = openDescriptors();
    directory = mkdtempSync(join(tmpdir(), 'cairn-export-'));
    filePath = join(directory, 'disk.img');
    socketPath = join(directory, 'disk.sock');
    ensureVolumeFile(filePath, MIB);
    // The loop runs on this thread, round by round; where it would sleep it goes on at once, and that is counted.
    loop = new ReactorLoop(32, new ReactorMetrics(ReactorMetrics.bufferFor(1), 0));
    sleeps = 0;
    const { uring } = loop;
    const enter = uring.enter.bind(uring);
    uring.enter = (minComplete) => {
      if (minComplete > 0) sleeps += 1;
      enter(0, 0);
    };
    exports = [];
    disks = [];
    arenas = new Map();
    const shards = new ShardDirectory(loop, 0);
    const peers = new Peers<ShardRequest>(0, [undefined], (request, answer) =>
      shards.handle(request, answer),
    );
    places = { peers, shards, placement: new Placement(Placement.bufferFor(1), 0) };
  });
  afterEach(async () => {
    for (const disk of disks) disk.close();
    for (const one of exports) await during(closed(one));
    loop.stop();
    loop.run();
    rmSync(directory, { recursive: true, force: true });
    expect(openDescriptors()).toBe(before);
  });

  const during = async <T>(work: Promise<T>): Promise<T> => {
    const progress = { done: false };
    const end = work.finally(() => {
      progress.done = true;
    });
    end.catch(() => undefined);
    while (!progress.done) {
      loop.round();
      await setImmediate();
    }
    return end;
  };
  const rounds = (count: number) => {
    for (let round = 0; round < count; round += 1) loop.round();
  };
  /** What is known of an export: its connection, and what its rings have counted. */
  const statusOf = (one: Export) => {
    const { shared } = arenas.get(one)!;
    const { requests, bytes, names } = arenas.get(one)!.total();
    const { errors, faults } = byName(names);
    return {
      connected: one.status().connected,
      requests: Object.values(requests).reduce((sum, count) => sum + count, 0),
      bytesRead: bytes.read,
      bytesWritten: bytes.write,
      faultsByName: { ...faults, ...one.status().disconnects },
      errorsByName: errors,
      sizeBytes: shared.sizeBytes,
      failed: shared.failure,
    };
  };
  const closed = (one: Export) => new Promise<void>((resolve) => one.close(resolve));
  const serve = (more: Partial<ExportSpec> = {}) => {
    const spec: ExportSpec = {
      id: 'one',
      filePath,
      socketPath,
      readOnly: false,
      numQueues: 2,
      cache: 'writeback',
      serial: 'vol-0123456789abcdef',
      ...more,
    };
    const arena = ExportArena.make(1);
    const one = new Export(loop, places, spec, { arena: arena.buffer });
    arenas.set(one, arena);
    exports.push(one);
    return one;
  };
  const attach = async (options: Parameters<typeof FakeBlkDisk.open>[1] = {}, path = socketPath) => {
    const disk = await during(FakeBlkDisk.open(path, options));
    disks.push(disk);
    return disk;
  };

  it('serves a front-end, and sleeps when there is nothing to do', async () => {
    const one = serve();
    const disk = await attach();
    await during(disk.write(4096, Buffer.alloc(4096, 7)));
    await during(disk.flush());
    expect((await during(disk.read(4096, 512))).every((byte) => byte === 7)).toBe(true);
    expect(readFileSync(filePath).subarray(4095, 4098)).toEqual(Buffer.from([0, 7, 7]));
    expect(statusOf(one)).toMatchObject({ connected: true, requests: 3, bytesWritten: 4096, bytesRead: 512 });
    rounds(20);
    const slept = sleeps;
    rounds(20);
    expect(sleeps - slept).toBe(20);
    // Nobody looks at the ring now: only its kick can wake the loop.
    expect((await during(disk.read(0, 512))).length).toBe(512);
  });

  it.each(['writeback', 'direct'] as const)(
    'serves memory that lies far up, as that of a front-end without a guest (libblkio): %s',
    async (cache) => {
      serve({ cache });
      const memory = [0x7f12_3456_7000, 0x7f13_8000_0000].map((gpa) => ({ gpa, sizeBytes: MIB }));
      const disk = await attach({ memory, memorySlots: true, inflight: true });
      const pieces = Buffer.from(Array.from({ length: 6 * 4096 }, (_, at) => at % 251));
      await during(disk.write(512, pieces));
      expect(Buffer.from(await during(disk.read(512, pieces.length)))).toEqual(pieces);
      expect(readFileSync(filePath).subarray(512, 512 + pieces.length)).toEqual(pieces);
    },
  );

  it('counts the time from an answer of the kernel to its publication', async () => {
    const one = serve();
    const disk = await attach();
    const clockMicros = native.clockMicros.bind(native);
    Object.assign(native, { clockMicros: () => (clockMicros() + 1_000_000) | 0 });
    try {
      await during(disk.read(0, 512));
    } finally {
      Object.assign(native, { clockMicros });
    }
    expect(arenas.get(one)!.total().complete.sumMicros).toBeGreaterThan(900_000);
  });

  it('does not wait for a file that answers while it is asked, with one request at a time, too', async () => {
    serve();
    const disk = await attach();
    const { uring } = loop;
    const enter = uring.enter.bind(uring);
    const completionCount = uring.completionCount.bind(uring);
    let waits = 0;
    let slow = false;
    let late = 0;
    uring.completionCount = () => (late-- > 0 ? 0 : completionCount());
    uring.enter = (minComplete) => {
      const asked = uring.pending > 0;
      if (asked && minComplete > 0) waits += 1;
      enter(0, 0);
      if (!asked) return;
      for (let look = 0; look < 1000 && !uring.hasCompletions(); look += 1) enter(0, 0);
      if (!slow) return;
      slow = false;
      late = 2;
    };
    const reads = async (count: number) => {
      for (let read = 0; read < count; read += 1) await during(disk.read(0, 512));
      return waits;
    };
    expect(await reads(20)).toBe(0);
    // One answer that takes its time: from now on it waits, but looks again before long.
    slow = true;
    const waited = await reads(20);
    expect(waited).toBeGreaterThan(10);
    expect((await reads(40)) - waited).toBe(0);
  });

  it('goes to sleep although a ring that its driver broke has chains left', async () => {
    const one = serve();
    const disk = await attach({ numQueues: 2 });
    const { driver } = disk.queues[0]!;
    driver.setAvailIdx((driver.availIdx + 1000) & 0xffff);
    disk.queues[0]!.kick();
    for (let round = 0; round < 1000 && !disk.queues[0]!.sawError(); round += 1) loop.round();
    expect(statusOf(one).faultsByName).toEqual({ 'avail-idx-overrun': 1 });
    rounds(20);
    const slept = sleeps;
    rounds(20);
    expect(sleeps - slept).toBe(20);
    expect((await during(disk.read(0, 512, { queue: 1 }))).length).toBe(512);
  });

  it('completes more requests at once than it has slots, from two rings', async () => {
    serve();
    writeFileSync(filePath, Buffer.alloc(MIB, 0x5a));
    const disk = await attach({ numQueues: 2, queueSize: 1024, timeoutMs: 60_000 });
    for (const queue of disk.queues) queue.corked = true;
    const framing = { indirectAfter: 0 };
    const reads = Array.from({ length: 1400 }, (_, index) =>
      disk.read((index % 2048) * 512, 512, { queue: index % 2, framing }),
    );
    for (const queue of disk.queues) disk.uncork(queue);
    const parts = await during(Promise.all(reads));
    expect(parts.every((part) => part[0] === 0x5a)).toBe(true);
    expect(loop.inSlots).toBe(0);
  });

  it('keeps neighbours in one block apart when it must read before it writes (O_DIRECT)', async () => {
    const one = serve({ cache: 'direct' });
    const disk = await attach({ numQueues: 2 });
    const sectors = Array.from({ length: 64 }, (_, index) => index);
    await during(
      Promise.all(
        sectors.map((index) =>
          disk.write(index * 512, Buffer.alloc(512, index + 1), {
            queue: index % 2,
            framing: { alignBytes: 1 },
          }),
        ),
      ),
    );
    const bytes = readFileSync(filePath);
    expect(sectors.map((index) => [bytes[index * 512], bytes[index * 512 + 511]])).toEqual(
      sectors.map((index) => [index + 1, index + 1]),
    );
    expect(statusOf(one).errorsByName).toEqual({});
  });

  it('makes a write durable that was under way when the driver turned the cache off (virtio 1.2 §5.2.6.2)', async () => {
    const one = serve();
    const disk = await attach();
    const { uring } = loop;
    const [enter, prepare] = [uring.enter.bind(uring), uring.prepare.bind(uring)];
    const ops: number[] = [];
    uring.prepare = (...entry) => {
      ops.push(entry[0]);
      prepare(...entry);
    };
    uring.enter = () => undefined;
    const written = disk.write(0, Buffer.alloc(4096, 9));
    while (!ops.includes(IO_URING.op.WRITE)) {
      enter(0, 0);
      loop.round();
    }
    arenas.get(one)!.shared.writeThrough = true;
    uring.enter = enter;
    await during(written);
    expect(ops.filter((op) => op === IO_URING.op.WRITE || op === IO_URING.op.FSYNC)).toEqual([
      IO_URING.op.WRITE,
      IO_URING.op.FSYNC,
    ]);
    expect(statusOf(one).bytesWritten).toBe(4096);
  });

  it.each([false, true])(
    'leaves the cache off for a driver that goes on in a new process, and on for another: packed=%s',
    async (packed) => {
      const before = serve();
      const disk = await attach({ inflight: true, packed });
      await during(disk.setWriteback(false));
      exports.splice(exports.indexOf(before), 1);
      await during(closed(before));
      const after = serve();
      await during(disk.reconnect(socketPath));
      expect((await during(disk.readConfig())).writeback).toBe(0);
      expect(arenas.get(after)!.shared.writeThrough).toBe(true);
      await during(disk.write(0, Buffer.alloc(4096, 1)));
      await during(disk.detach());
      rounds(20);
      expect((await attach({ inflight: true, packed })).config.writeback).toBe(1);
      expect(arenas.get(after)!.shared.writeThrough).toBe(false);
    },
  );

  it('zeroes by plain writes where the file system has no other way', async () => {
    writeFileSync(filePath, Buffer.alloc(MIB, 0x5a));
    const one = serve();
    const disk = await attach();
    const { uring } = loop;
    const prepare = uring.prepare.bind(uring);
    const modes: number[] = [];
    uring.prepare = (op, fd, offsetLow, offsetHigh, low, high, length, ...rest) => {
      if (op !== IO_URING.op.FALLOCATE)
        return prepare(op, fd, offsetLow, offsetHigh, low, high, length, ...rest);
      // A mode that no file system has: EOPNOTSUPP.
      modes.push(length);
      return prepare(op, fd, offsetLow, offsetHigh, low, high, 0x4000, ...rest);
    };
    const range = Buffer.alloc(16);
    range.writeBigUInt64LE(8n, 0);
    range.writeUInt32LE(16, 8);
    const { status } = await during(disk.request({ type: BLK_TYPE.WRITE_ZEROES, sector: 0, out: range }));
    expect(status).toBe(BLK_STATUS.OK);
    expect(modes).toEqual([0x11, 3]);
    const bytes = readFileSync(filePath);
    expect(bytes.subarray(4096, 4096 + 8192).every((byte) => byte === 0)).toBe(true);
    expect([bytes[4095], bytes[4096 + 8192]]).toEqual([0x5a, 0x5a]);
    expect(statusOf(one).errorsByName).toEqual({});
  });

  describe('with a second front-end', () => {
    const patience = { timeoutMs: 60_000 };

    it('hears it, and runs its rings when the first has stopped its own', async () => {
      const one = serve();
      const [first, second] = [await attach(), await attach(patience)];
      const serial = second.getId();
      await during(first.write(0, Buffer.alloc(512, 5)));
      expect(statusOf(one).requests).toBe(1);
      expect(one.status()).toMatchObject({
        connected: true,
        waiting: expect.stringContaining('1 ring waits'),
      });
      await during(first.stop());
      expect(await during(serial)).toBe('vol-0123456789abcdef');
      expect(one.status().waiting).toBeUndefined();
    });

    it('goes on with the first when the second fails', async () => {
      serve();
      const [first, second] = [await attach({ numQueues: 2 }), await attach(patience)];
      await during(first.stop());
      await during(second.getId());
      await during(first.start());
      const read = first.read(0, 512, { queue: 1 });
      rounds(20);
      second.close();
      expect((await during(read)).length).toBe(512);
    });

    it('leaves the cache off that the guest has turned off', async () => {
      serve();
      const first = await attach();
      await during(first.setWriteback(false));
      const second = await attach(patience);
      await during(first.detach());
      expect((await during(second.readConfig())).writeback).toBe(0);
      second.close();
      rounds(20);
      expect((await attach()).config.writeback).toBe(1);
    });

    it('lets a third wait in the backlog until one has gone', async () => {
      const one = serve();
      const [first] = [await attach(), await attach(patience)];
      const third = FakeFrontend.connect(socketPath);
      const features = third.getFeatures();
      let heard = false;
      void features.then(() => (heard = true));
      for (let round = 0; round < 50; round += 1) {
        loop.round();
        await setImmediate();
      }
      expect(heard).toBe(false);
      first.close();
      expect(await during(features)).toBeGreaterThan(0n);
      third.close();
      rounds(10);
      expect(statusOf(one).faultsByName).toEqual({});
    });
  });

  it('survives a front-end that comes and goes a hundred times', async () => {
    const one = serve();
    for (let visit = 0; visit < 100; visit += 1) {
      const frontend = FakeFrontend.connect(socketPath);
      if (visit % 3 === 0) frontend.stream.sendBytes(Uint8Array.of(1, 0, 0));
      frontend.close();
      rounds(10);
    }
    expect(statusOf(one)).toMatchObject({ connected: false, faultsByName: { 'message-truncated': 34 } });
    const disk = await attach();
    expect((await during(disk.read(0, 512))).length).toBe(512);
  });

  it('does not let a front-end that never stops talking keep another one waiting', async () => {
    serve();
    const other = serve({ id: 'two', socketPath: `${socketPath}2` });
    const disk = await attach({}, `${socketPath}2`);
    const talker = FakeFrontend.connect(socketPath);
    const owner = Buffer.from('030000000100000000000000', 'hex');
    const burst = Buffer.concat(Array.from({ length: 2000 }, () => owner));
    let sent = 0;
    // Whenever the loop has read, there is more, as from a process that does nothing else.
    const receive = native.receive.bind(native);
    Object.assign(native, {
      receive: (...args: Parameters<typeof receive>) => {
        if (sent < 20_000 && native.send(talker.stream.fd, burst, 0, burst.length, new Int32Array(1), 0) > 0)
          sent += 1;
        return receive(...args);
      },
    });
    try {
      const read = disk.read(0, 512);
      for (let round = 0; round < 200; round += 1) {
        loop.round();
        await setImmediate();
      }
      expect((await read).length).toBe(512);
      expect(statusOf(other).requests).toBe(1);
    } finally {
      Object.assign(native, { receive });
      talker.close();
    }
  });

  describe('listening', () => {
    it('makes a socket of mode 0600 and removes it at the end', async () => {
      const one = serve();
      expect(statSync(socketPath).mode & 0o777).toBe(0o600);
      await during(closed(one));
      expect(existsSync(socketPath)).toBe(false);
      exports = [];
    });

    it('replaces a socket that a dead process left behind', async () => {
      closeSync(check('listen', native.unixListen(socketPath, 1, 0o600)));
      serve();
      await attach();
    });

    it('leaves a socket alone on which somebody listens, even one who does not answer', () => {
      const live = check('listen', native.unixListen(socketPath, 0, 0o600));
      const waiting = check('connect', native.unixConnect(socketPath));
      // The backlog is full: whoever would wait for room in it would wait for ever.
      expect(() => serve()).toThrow('another process listens');
      expect(existsSync(socketPath)).toBe(true);
      closeSync(waiting);
      closeSync(live);
    });

    it('replaces a socket on which somebody seems to listen, where nobody else may', async () => {
      const live = check('listen', native.unixListen(socketPath, 1, 0o600));
      serve({ socketIsOurs: true });
      await attach();
      closeSync(live);
    });

    it('leaves a file alone that is no socket', () => {
      writeFileSync(socketPath, 'precious');
      expect(() => serve()).toThrow('is not a socket');
      expect(readFileSync(socketPath, 'utf8')).toBe('precious');
    });

    it('listens on a socket that was handed down, and leaves its file', async () => {
      const socketFd = check('listen', native.unixListen(socketPath, 1, 0o600));
      const one = serve({ socketFd, socketPath: undefined });
      (await attach()).close();
      await during(closed(one));
      expect(existsSync(socketPath)).toBe(true);
      exports = [];
    });

    it('refuses a descriptor that is no socket, or not open', () => {
      const file = openSync(filePath, 'r');
      expect(() => serve({ socketFd: file })).toThrow('is not a socket');
      expect(() => serve({ socketFd: 1_000_000 })).toThrow('EBADF');
      closeSync(file);
    });
  });

  describe('ending', () => {
    it('lets requests in flight complete, then disconnects the front-end', async () => {
      const one = serve();
      const disk = await attach();
      const write = disk.write(0, Buffer.alloc(4096, 9));
      rounds(1);
      await during(Promise.all([write.catch(() => undefined), closed(one)]));
      expect(await during(disk.frontend.closedByBackend(1000))).toBe(true);
      exports = [];
    });

    it('ends once for everybody who asked', async () => {
      const one = serve();
      await attach();
      await during(Promise.all([closed(one), closed(one)]));
      expect(one.closing).toBe(true);
      exports = [];
    });

    it('lets go of a front-end that still waits to be served', async () => {
      const one = serve();
      await attach();
      await attach();
      const waiting = FakeFrontend.connect(socketPath);
      await during(closed(one));
      expect(await waiting.closedByBackend(1000)).toBe(true);
      waiting.close();
      exports = [];
    });

    it('ends although its socket cannot be removed any more', async () => {
      const folder = join(directory, 'sockets');
      mkdirSync(folder);
      const one = serve({ socketPath: join(folder, 'disk.sock') });
      renameSync(folder, join(directory, 'elsewhere'));
      writeFileSync(folder, ''); // now the path leads through a file
      await during(closed(one));
      exports = [];
    });
  });

  describe('growing', () => {
    it('tells its front-ends of the new size', async () => {
      const one = serve();
      const disk = await attach();
      const second = await attach();
      truncateSync(filePath, 2 * MIB);
      one.resize(2 * MIB);
      await during(disk.frontend.nextConfigChange(1000));
      await during(second.frontend.nextConfigChange(1000));
      expect((await during(disk.readConfig())).capacitySectors).toBe(4096);
      await during(disk.write(2 * MIB - 512, Buffer.alloc(512, 3)));
    });

    it.each([
      ['smaller than now', MIB - 4096, 'never shrink'],
      ['more than the file has', 2 * MIB, 'grow it first'],
      ['not in whole sectors', MIB + 1, 'multiple of 512'],
      ['no number', Number.NaN, 'multiple of 512'],
    ])('refuses a size that is %s', (_, sizeBytes, reason) => {
      const one = serve();
      expect(() => one.resize(sizeBytes)).toThrow(reason);
      expect(statusOf(one).sizeBytes).toBe(MIB);
    });
  });
});
