import type { HandedReader, HandedValue, RingFds, RingStart, VhostUserBackend } from '@cairn/vhost-user';
import { native } from '@cairn/native';
import { BlkConfigSpace, FEATURE, FeatureSet, SECTOR_BYTES } from '@cairn/virtio';
import { ZERO_LIMITS } from './zeroing.js';
import type { DeviceShard } from './device-shard.js';
import type { ExportArena } from './export-arena.js';
import { hasParents } from './layer-files.js';
import type { Peers } from './peers.js';
import type { Placement } from './placement.js';
import { RATE_BUCKETS } from './rate-limiter.js';
import type { ShardDirectory, ShardRequest, ShardSpec } from './shard-directory.js';
import type { VolumeFile } from './volume-file.js';

const SEG_MAX = 126; // 128-entry rings hold it with header and status even without indirect descriptors
const SIZE_MAX_BYTES = 1024 * 1024;
const BLOCK_BYTES = 4096; // what file systems allocate

export interface BlkBackendOptions {
  spec: ShardSpec;
  arena: ExportArena;
  numQueues: number;
}

/** Where a volume's rings are asked to run: the threads, and how they share the load. */
export interface RingPlaces {
  peers: Peers<ShardRequest>;
  placement: Placement;
  shards: ShardDirectory;
}

/** The device as its front-end sees it: features, configuration space, and rings that run on one reactor or another. */
export class BlkBackend implements VhostUserBackend {
  readonly queueCount: number;
  readonly offeredFeatures: FeatureSet;
  private spec: ShardSpec;
  private readonly arena: ExportArena;
  private readonly config: BlkConfigSpace;
  private readonly reactorOf = new Map<number, number>();
  private readonly starts = new Map<number, RingStart>();
  private readonly stopping = new Map<number, ((nextAvail: number) => void)[]>();
  /** Rings that go over to another thread, and what is asked of them meanwhile. */
  private readonly moving = new Map<number, (() => void)[]>();
  private readonly touched = new Set<number>();
  /** Do all rings run on this thread, until the volume has one layer again? */
  private gathered = false;
  private features = FeatureSet.of();

  constructor(
    private readonly places: RingPlaces,
    options: BlkBackendOptions,
  ) {
    this.spec = options.spec;
    this.arena = options.arena;
    this.queueCount = options.numQueues;
    const { file, readOnly } = options.spec;
    this.arena.shared.sizeBytes = file.sizeBytes;
    this.offeredFeatures = FeatureSet.of(
      FEATURE.VERSION_1,
      FEATURE.VHOST_USER_PROTOCOL_FEATURES,
      FEATURE.VHOST_LOG_ALL,
      FEATURE.RING_EVENT_IDX,
      FEATURE.RING_INDIRECT_DESC,
      FEATURE.RING_PACKED,
      FEATURE.RING_RESET,
      FEATURE.BLK_SIZE_MAX,
      FEATURE.BLK_SEG_MAX,
      FEATURE.BLK_BLK_SIZE,
      FEATURE.BLK_TOPOLOGY,
      FEATURE.BLK_FLUSH,
      FEATURE.BLK_CONFIG_WCE,
      FEATURE.BLK_MQ,
      ...(readOnly ? [FEATURE.BLK_RO] : [FEATURE.BLK_DISCARD, FEATURE.BLK_WRITE_ZEROES]),
    );
    this.config = new BlkConfigSpace({
      capacityBytes: file.sizeBytes,
      // The same in every cache mode, so that partition tables stay valid; smaller parts of a block are patched.
      blockSizeBytes: SECTOR_BYTES,
      segMax: SEG_MAX,
      sizeMaxBytes: SIZE_MAX_BYTES,
      numQueues: options.numQueues,
      physicalBlockExponent: Math.log2(BLOCK_BYTES / SECTOR_BYTES),
      optimalIoBlocks: 0,
      zeroing: { ...ZERO_LIMITS, alignmentSectors: BLOCK_BYTES / SECTOR_BYTES },
    });
    this.applyCachePolicy();
  }

  get sizeBytes(): number {
    return this.arena.shared.sizeBytes;
  }

  setFeatures(features: FeatureSet): void {
    this.features = features;
    this.applyCachePolicy();
  }

  startRing(start: RingStart): void {
    const reactor = this.places.placement.choose(start.index, { pinned: !this.maySpread });
    this.reactorOf.set(start.index, reactor);
    this.starts.set(start.index, start);
    this.touched.add(reactor);
    const features = {
      eventIdx: this.features.has(FEATURE.RING_EVENT_IDX),
      indirect: this.features.has(FEATURE.RING_INDIRECT_DESC),
      packed: this.features.has(FEATURE.RING_PACKED),
    };
    this.places.peers.ask(reactor, { kind: 'start-ring', spec: this.spec, start, features }, () => undefined);
  }

  /** A ring may be asked to stop again while it does: everybody who asked is told. */
  stopRing(index: number, done: (nextAvail: number) => void): void {
    const moving = this.moving.get(index);
    if (moving) {
      moving.push(() => this.stopRing(index, done));
      return;
    }
    const already = this.stopping.get(index);
    if (already) {
      already.push(done);
      return;
    }
    const waiters = [done];
    this.stopping.set(index, waiters);
    const reactor = this.reactorOf.get(index)!;
    const { exportId } = this.spec;
    this.places.peers.ask(reactor, { kind: 'stop-ring', exportId, index }, (nextAvail) => {
      this.reactorOf.delete(index);
      this.starts.delete(index);
      this.stopping.delete(index);
      this.places.placement.leave(reactor);
      for (const tell of waiters) tell(nextAvail);
    });
  }

  setRingFds(index: number, fds: RingFds, done: () => void): void {
    const moving = this.moving.get(index);
    if (moving) {
      moving.push(() => this.setRingFds(index, fds, done));
      return;
    }
    const { exportId } = this.spec;
    this.starts.set(index, { ...this.starts.get(index)!, fds });
    this.places.peers.ask(this.reactorOf.get(index)!, { kind: 'set-ring-fds', exportId, index, fds }, () =>
      done(),
    );
  }

  readConfig(offset: number, size: number): Uint8Array | undefined {
    return this.config.read(offset, size);
  }

  /** Turning the cache off makes everything before it durable, too: from then on the driver need not flush. */
  writeConfig(offset: number, data: Uint8Array, done: (accepted: boolean) => void): void {
    const before = this.config.writeback;
    const accepted = this.config.write(offset, data);
    this.applyCachePolicy();
    if (accepted && before && !this.config.writeback) return this.flush(done);
    return done(accepted);
  }

  /** Front-ends are told apart in RingTurn; the device itself knows but one. */
  whenAlone(done: () => void): void {
    done();
  }

  /** Whether the cache is on: QEMU does not repeat it to the process that comes after one that was killed. */
  get driverState(): number {
    return this.config.writeback ? 1 : 0;
  }

  restoreDriverState(state: number): void {
    this.config.writeback = state !== 0;
    this.applyCachePolicy();
  }

  /** A new front-end, or a driver that starts over, finds the device as it was made. */
  reset(): void {
    this.features = FeatureSet.of();
    this.config.writeback = true;
    this.applyCachePolicy();
  }

  /** The files have that size already. */
  resize(sizeBytes: number): void {
    const { file } = this.spec;
    const layers = file.layers?.map((layer, index, all) =>
      index === all.length - 1 ? { ...layer, sizeBytes } : layer,
    );
    this.spec = { ...this.spec, file: { ...file, sizeBytes, ...(layers && { layers }) } };
    this.shard.goOver(this.spec.file);
    this.arena.shared.sizeBytes = sizeBytes;
    this.config.setCapacity(sizeBytes);
  }

  /** What a successor must know beside what it is told of the front-ends. */
  state(): HandedValue {
    const { sizeBytes, failedErrno } = this.arena.shared;
    const credits = this.arena.limiter.credits(native.clockMicros());
    return {
      sizeBytes,
      failedErrno,
      writeback: this.config.writeback,
      rateLimit: credits.map(({ rate, level }) => ({ rate, level })),
    };
  }

  /** Is as a predecessor left it. Throws HandedStateError; no ring may be running. */
  adopt(reader: HandedReader): void {
    this.resize(reader.integer('sizeBytes'));
    const errno = reader.integer('failedErrno', { max: 4095 });
    if (errno !== 0) this.arena.shared.fail(errno);
    this.config.writeback = reader.flag('writeback');
    const credits = reader.list('rateLimit', RATE_BUCKETS).map((bucket) => {
      const rate = bucket.integer('rate');
      const level = bucket.integer('level', { min: -Number.MAX_SAFE_INTEGER });
      bucket.end();
      return { rate, level };
    });
    this.arena.limiter.restore(credits, native.clockMicros());
    reader.end();
    this.applyCachePolicy();
  }

  // ---- another chain --------------------------------------------------------------------------------------------

  /** Has every ring run on this thread until `thaw`, and no other thread serve the volume. */
  gather(done: () => void): void {
    const { peers } = this.places;
    this.gathered = true;
    const away = [...this.reactorOf].filter(([, reactor]) => reactor !== peers.self);
    const others = [...this.touched].filter((reactor) => reactor !== peers.self);
    let left = away.length;
    const moved = (): void => {
      left -= 1;
      if (left <= 0) this.forgetOn(others, done);
    };
    for (const [index] of away) this.move(index, moved);
    if (away.length === 0) moved();
  }

  /** Takes no request until `thaw`, once gathered; `drained` is called when none is in flight, unless that comes first. */
  freeze(drained: () => void): void {
    this.shard.pauses.freeze(drained);
  }

  /** Serves from other files, while frozen. */
  goOver(file: VolumeFile): void {
    this.spec = { ...this.spec, file };
    this.shard.goOver(file);
  }

  thaw(): void {
    this.gathered = false;
    this.shard.pauses.thaw();
  }

  /** Calls `done` when everything that is in flight now has completed. */
  barrier(done: () => void): void {
    const { exportId } = this.spec;
    let left = this.touched.size;
    if (left === 0) return done();
    for (const reactor of this.touched) {
      this.places.peers.ask(reactor, { kind: 'barrier', exportId }, () => {
        left -= 1;
        if (left === 0) done();
      });
    }
    return undefined;
  }

  /** Makes every completed write durable; `done(false)` when that failed. */
  flush(done: (ok: boolean) => void): void {
    this.shard.flushes.start(done);
  }

  /** Makes every reactor forget the volume; no ring may be running. Its file may be closed when `done` is called. */
  close(done: () => void): void {
    this.forgetOn([...this.touched.add(this.places.peers.self)], done);
  }

  /** This thread's part of the volume. */
  private get shard(): DeviceShard {
    this.touched.add(this.places.peers.self);
    return this.places.shards.shardOf(this.spec);
  }

  /** Stops a ring on its thread and goes on with it on this one; its front-end does not notice. */
  private move(index: number, done: () => void): void {
    const stopping = this.stopping.get(index);
    if (stopping) {
      stopping.push(() => done());
      return;
    }
    const waiting: (() => void)[] = [];
    this.moving.set(index, waiting);
    const reactor = this.reactorOf.get(index)!;
    const { exportId } = this.spec;
    this.places.peers.ask(reactor, { kind: 'stop-ring', exportId, index }, (nextAvail) => {
      this.places.placement.leave(reactor);
      this.moving.delete(index);
      this.startRing({ ...this.starts.get(index)!, nextAvail });
      for (const ask of waiting) ask();
      done();
    });
  }

  private forgetOn(reactors: readonly number[], done: () => void): void {
    let left = reactors.length;
    const { exportId } = this.spec;
    if (left === 0) return done();
    for (const reactor of reactors) {
      this.touched.delete(reactor);
      this.places.peers.ask(reactor, { kind: 'forget', exportId }, () => {
        left -= 1;
        if (left === 0) done();
      });
    }
    return undefined;
  }

  /**
   * A write of less than a block must be alone on its volume, and the map of a volume that has parents is for one thread;
   * only one thread can see to either.
   */
  private get maySpread(): boolean {
    const { file } = this.spec;
    return file.offsetMask < SECTOR_BYTES && !hasParents(file) && !this.gathered;
  }

  /**
   * virtio 1.2 §5.2.6.2: a driver that took neither FLUSH nor CONFIG_WCE, or that turned the cache off, expects each
   * write to be durable when it completes.
   */
  private applyCachePolicy(): void {
    const knowsFlush = this.features.has(FEATURE.BLK_FLUSH) || this.features.has(FEATURE.BLK_CONFIG_WCE);
    const writeback = this.features.has(FEATURE.BLK_CONFIG_WCE) ? this.config.writeback : knowsFlush;
    this.arena.shared.writeThrough = !writeback;
  }
}
