import { closeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import type { ExportStatus } from '@cairn/block-export';
import {
  Disconnected,
  FakeBlkDisk,
  FakeFrontend,
  PROTOCOL_FEATURE,
  TimedOut,
  pollUntil,
  type FakeDiskOptions,
  type FakeQueue,
} from '@cairn/vhost-user/testing';
import { BLK_TYPE, RING_FEATURE, bits } from '@cairn/virtio/testing';
import { expect } from 'vitest';
import {
  cpuMillis,
  leakedBy,
  NOTHING_LEAKED,
  scratchDirectory,
  settledHeldBy,
  type Held,
} from '../support/back-end.js';
import { startExport, statusOf } from '../support/export-process.js';
import { serveDisks, type ServedDisks } from '../support/served-disks.js';
import { RawGuest, type RawGuestOptions } from './raw-guest.js';

const MiB = 2 ** 20;
/** Size of the victim's and the innocent's disk. */
export const DISK_BYTES = 8 * MiB;
/** Queues that the back-end offers. */
export const QUEUES = 2;

/** Longest that the innocent may wait for one request while the victim's front-end misbehaves, on a busy machine. */
const INNOCENT_MS = 2_000;

/** How a back-end took an attack. */
export type Outcome = 'ring-stopped' | 'disconnected' | 'nothing';

/** How the back-end is started. */
export interface ArenaOptions {
  readOnly?: boolean;
  cache?: 'direct' | 'writeback';
  args?: readonly string[];
}

const controlIn = (directory: string): string => join(directory, 'control');

/**
 * One process that serves two disks: a victim, whose front-ends break rules, and an innocent, whose front-end must
 * not notice. `verify` after each attack checks everything that must never change.
 */
export class HostileArena {
  private readonly closers: (() => void)[] = [];
  private baseline!: Held;
  private rounds = 0;

  private constructor(
    readonly served: ServedDisks,
    readonly innocent: FakeBlkDisk,
    private readonly readOnly: boolean,
    private readonly scratch: ReturnType<typeof scratchDirectory>,
  ) {}

  static async start(options: ArenaOptions = {}): Promise<HostileArena> {
    const { args = [], readOnly, cache } = options;
    const scratch = scratchDirectory();
    const more = ['--reactors', '1', '--control', controlIn(scratch.path), ...args];
    const served = await serveDisks((disks) => startExport({ ...disks, args: more }), {
      sizeBytes: DISK_BYTES,
      count: 2,
      numQueues: QUEUES,
      readOnly,
      ...(cache && { cache }),
    });
    const innocent = await FakeBlkDisk.open(served.sockets[1]!, { numQueues: QUEUES, timeoutMs: 5_000 });
    const arena = new HostileArena(served, innocent, options.readOnly ?? false, scratch);
    await arena.visit();
    await arena.visit();
    arena.baseline = await settledHeldBy(served.backEnd.pid);
    return arena;
  }

  get pid(): number {
    return this.served.backEnd.pid;
  }

  /** Where the back-end takes requests of the operator. */
  get control(): string {
    return controlIn(this.scratch.path);
  }

  get victimSocket(): string {
    return this.served.sockets[0]!;
  }

  /** Calls `close` when the attack is over. */
  later(close: () => void): void {
    this.closers.push(close);
  }

  /** Closes a descriptor when the attack is over. */
  own(fd: number): number {
    this.later(() => closeSync(fd));
    return fd;
  }

  /** An honest disk on the victim, for an attack to begin from; it looks for used chains itself. */
  async disk(options: FakeDiskOptions = {}): Promise<FakeBlkDisk> {
    const disk = await FakeBlkDisk.open(this.victimSocket, {
      numQueues: QUEUES,
      notify: 'poll',
      timeoutMs: 3_000,
      ...options,
    });
    this.later(() => disk.close());
    return disk;
  }

  /** An honest guest on the victim, of which every part can be spoilt. */
  async guest(options: RawGuestOptions = {}): Promise<RawGuest> {
    const guest = await RawGuest.open(this.victimSocket, { numQueues: QUEUES, timeoutMs: 3_000, ...options });
    this.later(() => guest.close());
    return guest;
  }

  /** What the back-end has counted of the victim. */
  report(): Promise<ExportStatus> {
    return statusOf(this.control);
  }

  /** Why the victim's front-end was disconnected last, or what its back-end printed at its end. */
  async lastFault(): Promise<string> {
    if (!this.served.backEnd.isRunning()) return this.served.backEnd.log();
    return (await this.report()).lastDisconnect ?? 'nobody was disconnected';
  }

  /** Does something and tells which faults of the victim's guest or front-end were counted meanwhile, by name. */
  async faultsOf(attack: () => unknown): Promise<string[]> {
    const { faultsByName: before } = await this.report();
    await attack();
    return this.faultsSince(before);
  }

  /** Names of the victim's faults that were counted since a report. */
  async faultsSince(before: ExportStatus['faultsByName']): Promise<string[]> {
    const { faultsByName } = await this.report();
    return Object.entries(faultsByName)
      .filter(([name, count]) => count > (before[name] ?? 0))
      .map(([name]) => name);
  }

  /** A connection to the victim on which nothing has been said. */
  connect(): FakeFrontend {
    const frontend = FakeFrontend.connect(this.victimSocket, { timeoutMs: 3_000 });
    this.later(() => frontend.close());
    return frontend;
  }

  /** A connection on which features, and nothing else, are agreed. */
  async negotiated(): Promise<FakeFrontend> {
    const frontend = this.connect();
    const offered = await frontend.getFeatures();
    await frontend.setFeatures(offered & ~bits(RING_FEATURE.LOG_ALL, RING_FEATURE.RING_PACKED));
    await frontend.getProtocolFeatures();
    const { MQ, REPLY_ACK, CONFIG, BACKEND_REQ } = PROTOCOL_FEATURE;
    await frontend.setProtocolFeatures(bits(MQ, REPLY_ACK, CONFIG, BACKEND_REQ));
    await frontend.setOwner();
    return frontend;
  }

  /** Waits for the ring or its connection to be stopped; `nothing` when neither happens in that time. */
  async outcome(disk: FakeBlkDisk, queue: FakeQueue, timeoutMs = 2_000): Promise<Outcome> {
    const look = (): Outcome | undefined => {
      if (queue.sawError()) return 'ring-stopped';
      return disk.frontend.stream.isClosed() ? 'disconnected' : undefined;
    };
    try {
      return await pollUntil('the outcome', look, { timeoutMs, fd: () => queue.errFd });
    } catch (error) {
      if (error instanceof TimedOut) return 'nothing';
      throw error;
    }
  }

  /** Ends the attack and checks: alive, the innocent served, the victim open to the next, nothing leaked, no spinning. */
  async verify(): Promise<void> {
    await this.checkInnocent();
    for (const close of this.closers.splice(0).reverse()) close();
    await this.visit();
    const leaked = () => leakedBy(this.pid, this.baseline);
    await expect.poll(leaked, { timeout: 5_000, interval: 20 }).toEqual(NOTHING_LEAKED);
    // Every fault has a name; this one says that we did not foresee it.
    const { faultsByName, lastDisconnect } = await this.report();
    expect(faultsByName['internal'], lastDisconnect).toBeUndefined();
  }

  /** The innocent writes and reads. */
  async checkInnocent(): Promise<void> {
    expect(this.served.backEnd.isRunning(), this.served.backEnd.log()).toBe(true);
    const pattern = Buffer.alloc(4096, ++this.rounds & 0xff);
    const begin = performance.now();
    for (let queue = 0; queue < QUEUES; queue++) {
      if (this.readOnly) {
        await this.innocent.read(0, 4096, { queue });
        continue;
      }
      await this.innocent.write(4096 * queue, pattern, { queue });
      expect(Buffer.from(await this.innocent.read(4096 * queue, 4096, { queue })).equals(pattern)).toBe(true);
    }
    expect(performance.now() - begin).toBeLessThan(INNOCENT_MS);
  }

  /** What the process uses of a core while nobody asks anything of it, from 0 to 1. */
  async idleLoad(): Promise<number> {
    await setTimeout(50);
    const before = cpuMillis(this.pid);
    await setTimeout(400);
    return (cpuMillis(this.pid) - before) / 400;
  }

  async close(): Promise<void> {
    for (const close of this.closers.splice(0).reverse()) close();
    this.innocent.close();
    await this.served.close();
    this.scratch.remove();
  }

  /** An honest front-end comes to the victim, is served, and goes. */
  private async visit(): Promise<void> {
    const disk = await FakeBlkDisk.open(this.victimSocket, { numQueues: QUEUES });
    await disk.read(0, 4096);
    expect((await disk.request({ type: BLK_TYPE.FLUSH, queue: 1 })).status).toBe(0);
    await disk.detach();
  }
}

/** Lets an attack go wrong in the ways it may: refused, disconnected, or without an answer. */
export const tolerate = async (attack: Promise<unknown>): Promise<void> => {
  try {
    await attack;
  } catch (error) {
    if (error instanceof Disconnected || error instanceof TimedOut) return;
    if (error instanceof Error && error.name === 'Refused') return;
    throw error;
  }
};
