import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { BLK_FEATURE, GuestRam, RING_FEATURE, bits } from '@cairn/virtio/testing';
import {
  BLK_CONFIG_BYTES,
  FakeFrontend,
  parseBlkConfig,
  PROTOCOL_FEATURE,
  type BlkConfig,
} from '@cairn/vhost-user/testing';
import { cpuMicros } from '../process-cpu.js';
import { GuestQueue, queueBytes } from './guest-queue.js';
import { LatencyHistogram } from './latency-histogram.js';

/** One run of load on one socket. */
export interface LoadSpec {
  socket: string;
  rw: 'randread' | 'randwrite' | 'read' | 'write';
  blockBytes: number;
  /** Requests in flight in each queue. */
  depth: number;
  queues: number;
  /** `poll` spins on the used rings and suppresses calls; `sleep` waits on the call eventfd, as a guest does. */
  driver: 'poll' | 'sleep';
  rampSeconds: number;
  seconds: number;
  /** Process whose CPU time is measured. */
  backEndPid?: number;
  /** Bytes of the disk that are used; default all. */
  areaBytes?: number;
}

/** What a run measured. */
export interface LoadResult {
  ios: number;
  iops: number;
  p50Micros: number;
  p99Micros: number;
  maxMicros: number;
  /** CPU time of the back-end's process, all its threads and io_uring workers, for one I/O. */
  cpuMicrosPerIo: number;
  kicksPerIo: number;
  callsPerIo: number;
}

const RING_GPA = 0x4000_0000;
const EAGAIN = 11;
const NANOS = 1e9;
/** Turns without a completion between two looks at the clock, which wraps. */
const CLOCK_EVERY = 1024;

const WANTED =
  bits(RING_FEATURE.VERSION_1, RING_FEATURE.PROTOCOL_FEATURES, RING_FEATURE.INDIRECT_DESC) |
  bits(RING_FEATURE.EVENT_IDX, BLK_FEATURE.FLUSH, BLK_FEATURE.BLK_SIZE, BLK_FEATURE.SEG_MAX, BLK_FEATURE.MQ);
const NEEDED = bits(RING_FEATURE.VERSION_1, RING_FEATURE.INDIRECT_DESC, RING_FEATURE.EVENT_IDX);
const PROTOCOL = bits(PROTOCOL_FEATURE.MQ, PROTOCOL_FEATURE.REPLY_ACK, PROTOCOL_FEATURE.CONFIG);

/** A front-end with a driver that loads a vhost-user-blk back-end from this thread. */
export class LoadRun {
  private readonly latencies = new LatencyHistogram();
  private readonly callFd = check('eventfd', native.eventfd(0));
  private queues: GuestQueue[] = [];
  private ram: GuestRam | undefined;
  private calls = 0;

  private constructor(
    private readonly frontend: FakeFrontend,
    private readonly spec: LoadSpec,
  ) {}

  /** Connects, sets the rings up and starts them. */
  static async attach(spec: LoadSpec): Promise<LoadRun> {
    const run = new LoadRun(FakeFrontend.connect(spec.socket), spec);
    run.start(await run.negotiate());
    await run.startRings();
    return run;
  }

  /** Loads the rings for the time of the ramp and of the measurement; blocks the thread. */
  measure(): LoadResult {
    const { spec } = this;
    let now = native.clockNanos();
    for (const queue of this.queues) queue.startAll(now);
    this.loadFor(spec.rampSeconds * NANOS);
    this.latencies.clear();
    this.calls = 0;
    for (const queue of this.queues) queue.kicks = 0;
    const cpuBefore = this.backEndCpu();
    const [ios, nanos] = this.loadFor(spec.seconds * NANOS);
    const cpu = this.backEndCpu() - cpuBefore;
    const kicks = this.queues.reduce((sum, queue) => sum + queue.kicks, 0);
    const result = {
      ios,
      iops: (ios / nanos) * NANOS,
      p50Micros: this.latencies.quantileMicros(0.5),
      p99Micros: this.latencies.quantileMicros(0.99),
      maxMicros: this.latencies.quantileMicros(1),
      cpuMicrosPerIo: cpu / ios,
      kicksPerIo: kicks / ios,
      callsPerIo: this.calls / ios,
    };
    for (const queue of this.queues) queue.stopping = true;
    now = native.clockNanos();
    while (this.queues.some((queue) => queue.inFlight > 0)) {
      for (const queue of this.queues) queue.turn(now, this.latencies);
    }
    return result;
  }

  /** Stops the rings and disconnects. Throws when the back-end's idea of a ring's position is not ours. */
  async detach(): Promise<void> {
    for (const [index, queue] of this.queues.entries()) {
      const base = await this.frontend.getVringBase(index);
      if (base !== queue.availIdx) throw new Error(`ring ${index} stands at ${base}, not ${queue.availIdx}`);
      queue.close();
    }
    this.frontend.close();
    closeSync(this.callFd);
    this.ram?.close();
  }

  private async negotiate(): Promise<BlkConfig> {
    const { frontend, spec } = this;
    const features = (await frontend.getFeatures()) & WANTED;
    if ((features & NEEDED) !== NEEDED) throw new Error(`features ${features.toString(16)} are too few`);
    await frontend.setProtocolFeatures((await frontend.getProtocolFeatures()) & PROTOCOL);
    if ((await frontend.getQueueNum()) < spec.queues) throw new Error(`fewer than ${spec.queues} queues`);
    await frontend.setOwner();
    const config = parseBlkConfig(await frontend.getConfig(0, BLK_CONFIG_BYTES));
    await frontend.setFeatures(features);
    return config;
  }

  private start(config: BlkConfig): void {
    const { spec } = this;
    const sizeBytes = Math.min(config.capacitySectors * 512, spec.areaBytes ?? Infinity);
    const blocks = Math.floor(sizeBytes / spec.blockBytes / spec.queues);
    if (blocks === 0) throw new Error('the disk is smaller than one block for each queue');
    this.ram = new GuestRam([{ gpa: RING_GPA, sizeBytes: spec.queues * queueBytes(spec) }]);
    const random = spec.rw.startsWith('rand');
    for (let index = 0; index < spec.queues; index += 1) {
      this.queues.push(
        new GuestQueue(this.ram, {
          write: spec.rw.endsWith('write'),
          random,
          blockBytes: spec.blockBytes,
          depth: spec.depth,
          firstBlock: random ? 0 : index * blocks,
          blocks: random ? blocks * spec.queues : blocks,
          seed: 0x9e37_79b9 * (index + 1),
        }),
      );
    }
  }

  private async startRings(): Promise<void> {
    const { frontend, ram } = this;
    await frontend.setMemTable(ram!);
    for (const [index, queue] of this.queues.entries()) {
      await frontend.setVringNum(index, queue.size);
      await frontend.setVringBase(index, 0);
      await frontend.setVringAddr(index, {
        desc: ram!.userAddress(queue.descGpa),
        used: ram!.userAddress(queue.usedGpa),
        avail: ram!.userAddress(queue.availGpa),
      });
      await frontend.setVringKick(index, queue.kickFd);
      await frontend.setVringCall(index, this.callFd);
      await frontend.setVringEnable(index, true);
    }
  }

  /** Turns the rings for so long; the number of completions, and the time it took in nanoseconds. */
  private loadFor(nanos: number): [ios: number, nanos: number] {
    const { queues, latencies } = this;
    const sleeps = this.spec.driver === 'sleep';
    if (!sleeps) for (const queue of queues) queue.suppressCalls();
    let ios = 0;
    let elapsed = 0;
    let idle = 0;
    let now = native.clockNanos();
    let then = now;
    while (elapsed < nanos) {
      let moved = 0;
      for (let index = 0; index < queues.length; index += 1) {
        const queue = queues[index]!;
        if (!queue.hasUsed()) continue;
        now = native.clockNanos();
        moved += queue.turn(now, latencies);
        if (!sleeps) queue.suppressCalls();
      }
      ios += moved;
      if (moved === 0) {
        if (sleeps) this.sleepUntilCalled();
        else {
          idle += 1;
          if (idle % CLOCK_EVERY !== 0) continue;
        }
        now = native.clockNanos();
      }
      elapsed += (now - then) | 0;
      then = now;
    }
    return [ios, elapsed];
  }

  private sleepUntilCalled(): void {
    let used = false;
    for (const queue of this.queues) used = queue.armCall() || used;
    if (used) return;
    const got = native.consume(this.callFd);
    // Some back-ends set the eventfd, which is theirs as well, to non-blocking.
    if (got === -EAGAIN) check('setNonblocking', native.setNonblocking(this.callFd, 0));
    else this.calls += 1;
  }

  private backEndCpu(): number {
    return this.spec.backEndPid === undefined ? 0 : cpuMicros(this.spec.backEndPid);
  }
}
