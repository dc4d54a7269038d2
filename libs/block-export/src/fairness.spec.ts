import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { BLK_TYPE, type Segment } from '@cairn/virtio/testing';
import { FakeBlkDisk, type FakeQueue } from '@cairn/vhost-user/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DeviceShard } from './device-shard.js';
import { Export } from './export.js';
import { ExportArena } from './export-arena.js';
import type { CompletionHandler } from './io-uring.js';
import { Peers } from './peers.js';
import { Placement } from './placement.js';
import { ReactorLoop } from './reactor-loop.js';
import { ReactorMetrics } from './reactor-metrics.js';
import { ShardDirectory, type ShardRequest } from './shard-directory.js';
import { IO_COMPLETION, RESERVED_SLOTS } from './shard-host.js';
import { ensureVolumeFile } from './volume-file.js';

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = MIB;

/** How a guest uses its disk: so many requests at once on each queue, always. */
interface Use {
  requestBytes: number;
  depth: number;
  numQueues?: number;
}

/** What a reactor's time goes into: bytes, and descriptors as if each were 2 KiB. */
const workOf = (use: Use, requests: number): number => requests * Math.max(use.requestBytes, 3 * 2 * KIB);

/** Volumes on one reactor, round by round: what is taken in which round depends on nothing but what is asked for. */
describe('volumes that are busy on one reactor', () => {
  let directory: string;
  let loop: ReactorLoop;
  let exports: Export[];
  let disks: FakeBlkDisk[];

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-fair-'));
    loop = new ReactorLoop(0, new ReactorMetrics(ReactorMetrics.bufferFor(1), 0));
    // Where the loop would sleep it goes on at once.
    const { uring } = loop;
    const enter = uring.enter.bind(uring);
    uring.enter = () => enter(0, 0);
    exports = [];
    disks = [];
  });
  afterEach(async () => {
    for (const disk of disks) disk.close();
    for (const one of exports) await during(new Promise<void>((resolve) => one.close(resolve)));
    loop.stop();
    loop.run();
    rmSync(directory, { recursive: true, force: true });
  });

  const during = async <T>(work: Promise<T>): Promise<T> => {
    const progress = { done: false };
    const end = work.finally(() => {
      progress.done = true;
    });
    while (!progress.done) {
      loop.round();
      await setImmediate();
    }
    return end;
  };

  /** A volume whose guest has its rings full before each round, and how many of its requests were completed. */
  const busy = async (use: Use, file: 'null' | 'real' = 'null') => {
    const { requestBytes, numQueues = 1 } = use;
    const id = `volume-${exports.length}`;
    const filePath = join(directory, `${id}.img`);
    if (file === 'real') ensureVolumeFile(filePath, SIZE);
    const socketPath = join(directory, `${id}.sock`);
    const spec = {
      id,
      filePath,
      socketPath,
      readOnly: false,
      numQueues,
      cache: 'writeback',
      serial: id,
    } as const;
    const arena = ExportArena.make(1);
    exports.push(
      new Export(loop, places(), file === 'null' ? { ...spec, nullBytes: SIZE } : spec, {
        arena: arena.buffer,
      }),
    );
    const memory = [{ gpa: 0, sizeBytes: 4 * MIB }];
    const options = { numQueues, queueSize: 1024, notify: 'poll', memory } as const;
    const disk = await during(FakeBlkDisk.open(socketPath, options));
    disks.push(disk);
    // All of its requests read the same sectors into the same place.
    const { ram } = disk;
    const header = ram.allocate(16, 16);
    ram.bytes(header, 16).fill(0)[0] = BLK_TYPE.IN;
    const chain: Segment[] = [
      { gpa: header, lengthBytes: 16, writable: false },
      { gpa: ram.allocate(requestBytes, 4 * KIB), lengthBytes: requestBytes, writable: true },
      { gpa: ram.allocate(1, 1), lengthBytes: 1, writable: true },
    ];
    const fill = (queue: FakeQueue): void => {
      queue.reap(() => undefined);
      while (queue.ring.inFlightCount < use.depth) queue.ring.submit(chain);
      queue.publish();
    };
    return {
      use,
      fill: () => disk.queues.forEach(fill),
      requests: () => arena.total().requests.read,
      taken: () => arena.total().counters.taken,
      inFlight: () => arena.total().counters.taken - arena.total().requests.read,
    };
  };
  type Busy = Awaited<ReturnType<typeof busy>>;

  let sharedPlaces: ConstructorParameters<typeof Export>[1] | undefined;
  beforeEach(() => (sharedPlaces = undefined));
  /** The places of the only reactor. */
  const places = () => {
    if (sharedPlaces) return sharedPlaces;
    const shards = new ShardDirectory(loop, 0);
    const peers = new Peers<ShardRequest>(0, [undefined], (request, answer) =>
      shards.handle(request, answer),
    );
    return (sharedPlaces = { peers, shards, placement: new Placement(Placement.bufferFor(1), 0) });
  };

  /** Keeps the kernel's answers to requests back, until `let` lets so many of them through in the next round. */
  const holdAnswers = () => {
    const { uring, slots } = loop;
    const reap = uring.reap.bind(uring);
    const held: Parameters<CompletionHandler>[] = [];
    let next: Parameters<CompletionHandler>[] = [];
    uring.reap = (handler) => {
      reap((...answer) => (answer[1] === IO_COMPLETION ? held.push(answer) : handler(...answer)));
      for (const answer of next) handler(...answer);
      return next.splice(0).length;
    };
    return {
      let: (which: (shard: DeviceShard | undefined) => boolean, most: number): void => {
        next = held.filter(([slot]) => which(slots.shard[slot])).slice(0, most);
        for (const answer of next) held.splice(held.indexOf(answer), 1);
      },
      /** Lets all through, from now on. */
      end: (): void => {
        uring.reap = (handler) => {
          uring.reap = reap;
          for (const answer of held) handler(...answer);
          return held.length + reap(handler);
        };
      },
    };
  };

  const run = (guests: readonly Busy[], rounds: number): void => {
    for (let round = 0; round < rounds; round += 1) {
      for (const guest of guests) guest.fill();
      loop.round();
    }
  };

  /** What part of the work was done for each of them. */
  const sharesOf = async (...uses: Use[]): Promise<number[]> => {
    const guests: Busy[] = [];
    for (const use of uses) guests.push(await busy(use));
    run(guests, 20); // until all are active
    const before = guests.map((guest) => guest.requests());
    run(guests, 200);
    const works = guests.map((guest, index) => workOf(guest.use, guest.requests() - before[index]!));
    const sum = works.reduce((total, work) => total + work, 0);
    return works.map((work) => work / sum);
  };
  const expectEqual = (shares: number[]): void => {
    for (const share of shares) expect(share).toBeCloseTo(1 / shares.length, 1);
  };

  it('share it by the work they make, whatever the size of their requests', async () => {
    expectEqual(
      await sharesOf(
        { requestBytes: 4 * KIB, depth: 200 },
        { requestBytes: 64 * KIB, depth: 64 },
        { requestBytes: 256 * KIB, depth: 16 },
      ),
    );
  });

  it('share it by volume, however many queues they use', async () => {
    expectEqual(
      await sharesOf(
        { requestBytes: 16 * KIB, depth: 100, numQueues: 4 },
        { requestBytes: 16 * KIB, depth: 100 },
      ),
    );
  });

  it('share it however deep their queues are, and small requests count as work', async () => {
    expectEqual(await sharesOf({ requestBytes: 512, depth: 300 }, { requestBytes: 4 * KIB, depth: 120 }));
  });

  it('pay what a large request took too much of before they go on', async () => {
    expectEqual(await sharesOf({ requestBytes: MIB, depth: 4 }, { requestBytes: 64 * KIB, depth: 64 }));
  });

  it('leave all of its requests to one that asks for less than its share', async () => {
    const modest = await busy({ requestBytes: 4 * KIB, depth: 1 });
    const greedy = await busy({ requestBytes: 256 * KIB, depth: 64 });
    run([modest, greedy], 20);
    const before = modest.requests();
    run([modest, greedy], 100);
    expect(modest.requests() - before).toBe(100);
  });

  it('leave each other room for requests in flight, when the file is slow', async () => {
    const few = await busy({ requestBytes: 64 * KIB, depth: 250, numQueues: 3 }, 'real');
    const many = await busy({ requestBytes: 512, depth: 300, numQueues: 4 }, 'real');
    run([few, many], 20);
    // From here on no answer of the kernel is seen: what is in flight stays there.
    loop.uring.reap = () => 0;
    run([few, many], 120);
    Reflect.deleteProperty(loop.uring, 'reap');
    for (const inFlight of [few.inFlight(), many.inFlight()]) {
      expect(inFlight).toBeGreaterThan(400);
      expect(inFlight).toBeLessThanOrEqual(512);
    }
  });

  // A volume all of whose requests are in flight is not counted among the busy ones while the thread sleeps. That leaves
  // nobody without: one that lacks slots is kept active, so it is counted from when it asks until it has its share.
  // To count all that have something in flight would leave slots empty: a hundred quiet volumes, of one request each,
  // would hold a busy one down to its least share of a file that could do more at once.
  it('take what another leaves while its requests are in flight, and give it up as soon as that one asks', async () => {
    const slow = await busy({ requestBytes: 512, depth: 100 }, 'real');
    const greedy = await busy({ requestBytes: 512, depth: 300, numQueues: 4 }, 'real');
    const answers = holdAnswers();

    run([slow], 20);
    const shardOf = new Set(loop.slots.shard.filter((shard) => shard !== undefined));
    expect([slow.inFlight(), shardOf.size]).toEqual([100, 1]);
    const [slowShard] = shardOf;
    run([greedy], 60);
    expect(greedy.inFlight()).toBe(loop.slots.count - RESERVED_SLOTS - 100);

    // It asks for more than there is: every slot that comes free is its own, until it has what it asked for.
    slow.use.depth = 300;
    let taken = greedy.taken();
    for (let round = 0; round < 20; round += 1) {
      run([slow, greedy], 1);
      // What is answered in one round is free in the next.
      expect(slow.inFlight()).toBe(Math.min(300, 100 + 20 * Math.max(0, round - 1)));
      answers.let((shard) => shard !== slowShard, 20);
      if (slow.inFlight() < 300) expect(greedy.taken()).toBe(taken);
      taken = greedy.taken();
    }
    expect(slow.inFlight()).toBe(300);

    // Its own slots are its own again as soon as its answers come, whoever waits for some.
    run([slow, greedy], 20);
    for (let round = 0; round < 20; round += 1) {
      answers.let((shard) => shard === slowShard, 50);
      run([slow, greedy], 2);
      expect(slow.inFlight()).toBe(300);
    }
    answers.end();
  });
});
