import { existsSync } from 'node:fs';
import { mkdir, statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { LiveVolume, VolumeChain } from './chain.js';
import { ChangedBlocks } from './changed-blocks.js';
import { Clones } from './clones.js';
import { Coalescer } from './coalescer.js';
import { type Disk, systemDisk } from './disk.js';
import { BLOCK_BYTES } from './layer-format.js';
import { Pool } from './pool.js';
import { openPoolFile } from './pool-file.js';
import { adoptPoolLock, lockPool, type PoolLock } from './pool-lock.js';
import { PoolPaths } from './pool-paths.js';
import { type PoolAbilities, probePool } from './pool-probe.js';
import { VOLUME_ID, type VolumeManifest } from './records.js';
import { loadPool, recoverPool, removeScratch } from './recovery.js';
import { type ScrubOptions, type ScrubReport, scrubPool } from './scrub.js';
import { SnapshotWriter } from './snapshot-writer.js';
import { Snapshots } from './snapshots.js';
import type { OnStep } from './steps.js';
import { StorageError, storageErrorOf } from './storage-error.js';
import { measureUsage, type PoolUsage } from './usage.js';

const DEFAULT_OVERCOMMIT_RATIO = 10;

export interface VolumeRecord {
  id: string;
  sizeBytes: number;
  /** ISO 8601, UTC. */
  createdAt: string;
}

export interface VolumeStoreOptions {
  directory: string;
  /** How many bytes may be promised for each byte of the file system. */
  overcommitRatio?: number;
  /** The file system; another one only in tests. */
  disk?: Disk;
  /** Called at each step of each verb. */
  onStep?: OnStep;
  /** The pool's lock, where somebody has taken it before; it stays the caller's. */
  lockFd?: number | undefined;
}

/** Bytes of a pool: of its file system in all, free there, and promised to volumes. */
export interface PoolCapacity {
  totalBytes: number;
  freeBytes: number;
  provisionedBytes: number;
}

/** The volumes of one pool directory. Verbs on one volume run one after the other. Every failure is a StorageError. */
export class VolumeStore {
  readonly snapshots: Snapshots;
  readonly clones: Clones;
  readonly coalescer: Coalescer;
  readonly changedBlocks: ChangedBlocks;
  readonly snapshotWriter: SnapshotWriter;

  private constructor(
    private readonly pool: Pool,
    /** What the pool's file system can do, as it was found when the pool was opened. */
    readonly abilities: PoolAbilities,
    private readonly lock: PoolLock,
  ) {
    this.snapshots = new Snapshots(pool);
    this.clones = new Clones(pool, this.snapshots);
    this.coalescer = new Coalescer(pool);
    this.changedBlocks = new ChangedBlocks(pool);
    this.snapshotWriter = new SnapshotWriter(pool);
  }

  /**
   * Opens a pool; makes the directory when it is not there. What a crash interrupted is finished or forgotten.
   *
   * Rejects when it is not writable, locked by another data plane, or on a file system that fails the probe; a new pool
   * also when it is full. A volume whose manifest is not understood does not keep the others from being served: `find`
   * throws for it alone.
   */
  static async open(options: VolumeStoreOptions): Promise<VolumeStore> {
    const paths = new PoolPaths(resolve(options.directory));
    const { directory } = paths;
    try {
      for (const path of [paths.volumes, paths.snapshots, paths.layers]) await makeDirectory(path);
    } catch (error) {
      throw storageErrorOf('open pool', directory, error);
    }
    const { lockFd } = options;
    const lock = lockFd === undefined ? lockPool(paths.lock) : adoptPoolLock(paths.lock, lockFd);
    try {
      const disk = options.disk ?? systemDisk;
      await removeScratch({ disk, paths });
      const { poolId, abilities } = await openPoolFile(paths.pool, await probe(paths), disk);
      const pool = new Pool({
        paths,
        poolId,
        disk,
        overcommitRatio: options.overcommitRatio ?? DEFAULT_OVERCOMMIT_RATIO,
        zeroMapOffsetBytes: abilities.zeroMapOffsetBytes,
        onStep: options.onStep,
      });
      await loadPool(pool);
      await recoverPool(pool);
      return new VolumeStore(pool, abilities, lock);
    } catch (error) {
      lock.release();
      throw storageErrorOf('open pool', directory, error);
    }
  }

  get poolId(): string {
    return this.pool.poolId;
  }

  /** Makes a volume that reads as zeroes. The same request again changes nothing; another size is refused. */
  create(request: { volumeId: string; sizeBytes: number }): Promise<VolumeRecord> {
    const { volumeId, sizeBytes } = request;
    if (!isVolumeSize(sizeBytes) || !VOLUME_ID.test(volumeId)) {
      const reason = `volume ${volumeId} of ${sizeBytes} bytes`;
      return Promise.reject(new StorageError('invalid-argument', { op: 'create volume', reason }));
    }
    return this.pool.verb([volumeId], async () => {
      const found = this.find(volumeId);
      if (found && found.sizeBytes !== sizeBytes) {
        const reason = `${volumeId} exists with ${found.sizeBytes} bytes, asked for were ${sizeBytes}`;
        throw new StorageError('volume-size-mismatch', { op: 'create volume', reason });
      }
      return found ?? this.make(volumeId, sizeBytes);
    });
  }

  /** Throws `manifest-corrupt` for a volume that is there but not understood. */
  find(volumeId: string): VolumeRecord | undefined {
    const volume = this.pool.findVolume(volumeId);
    return volume && recordOf(volume);
  }

  list(): VolumeRecord[] {
    return [...this.pool.graph.volumes.values()].map(recordOf);
  }

  /** Volumes that are there but not understood, each with the reason. */
  listBroken(): { id: string; reason: string }[] {
    return [...this.pool.broken].flatMap(([id, { message }]) =>
      VOLUME_ID.test(id) ? [{ id, reason: message }] : [],
    );
  }

  /**
   * Removes a volume and the bytes that only it has; one that is not there is no error. Snapshots and clones of it stay.
   *
   * Rejects with `volume-in-use` while it is attached.
   */
  delete(volumeId: string): Promise<void> {
    return this.pool.verb([volumeId], async () => {
      if (!this.find(volumeId)) return;
      if (this.pool.live.has(volumeId)) {
        throw new StorageError('volume-in-use', { op: 'delete volume', reason: `${volumeId} is attached` });
      }
      await this.pool.removeVolume(volumeId);
      await this.pool.step('delete.volume-removed');
      await this.pool.collect();
    });
  }

  /** Makes a volume larger; the new blocks read as zeroes. The same size again changes nothing; less is refused. */
  grow(volumeId: string, sizeBytes: number): Promise<VolumeRecord> {
    return this.pool.verb([volumeId], async () => {
      const volume = this.pool.volume(volumeId);
      const op = 'grow volume';
      if (!isVolumeSize(sizeBytes) || sizeBytes < volume.sizeBytes) {
        const reason = `${volumeId} has ${volume.sizeBytes} bytes, asked for were ${sizeBytes}; it never shrinks`;
        throw new StorageError('invalid-argument', { op, reason });
      }
      if (sizeBytes === volume.sizeBytes) return recordOf(volume);
      return this.pool.promising(op, sizeBytes - volume.sizeBytes, async () => {
        const grown = { ...volume, sizeBytes };
        await this.growHead(volume.headLayer, sizeBytes);
        await this.pool.writeVolume(grown);
        await this.pool.step('grow.volume-written');
        return recordOf(grown);
      });
    });
  }

  /** Path of the head layer: the file that a guest reads and writes. */
  filePath(volumeId: string): string {
    const { headLayer } = this.pool.volume(volumeId);
    return this.pool.paths.layerFile(this.pool.graph.layer(headLayer).file);
  }

  /** What the volume is read from. Throws `volume-not-found`, or `manifest-corrupt`. */
  chain(volumeId: string): VolumeChain {
    return this.pool.chainOf(this.pool.volume(volumeId));
  }

  /**
   * Says that a volume is served from now on, and tells its chain; until `detach`, what changes in its chain is told to
   * `live`. Waits for verbs on the volume, and for a fold of its head. Rejects with `volume-in-use` when it is attached.
   */
  attach(volumeId: string, live: LiveVolume): Promise<VolumeChain> {
    return this.pool.verb([volumeId], async () => {
      const volume = this.pool.volume(volumeId);
      if (this.pool.live.has(volumeId)) {
        throw new StorageError('volume-in-use', { op: 'attach volume', reason: `${volumeId} is attached` });
      }
      this.pool.live.set(volumeId, { volume: live, writes: new Set([volume.headLayer]) });
      await this.pool.withLayer(volume.headLayer, async () => {});
      return this.pool.chainOf(this.pool.volume(volumeId));
    });
  }

  /** The volume is served no longer; everything written to it is in its files, flushed or not. */
  async detach(volumeId: string): Promise<void> {
    this.pool.live.delete(volumeId);
  }

  /** Bytes that the volume's head really takes on the file system. */
  async allocatedBytes(volumeId: string): Promise<number> {
    const path = this.filePath(volumeId);
    try {
      return (await this.pool.disk.stat(path))?.allocatedBytes ?? 0;
    } catch (error) {
      throw storageErrorOf('measure volume', path, error);
    }
  }

  async capacity(): Promise<PoolCapacity> {
    const { directory } = this.pool.paths;
    try {
      const { blocks, bavail, bsize } = await statfs(directory);
      return {
        totalBytes: blocks * bsize,
        freeBytes: bavail * bsize,
        provisionedBytes: this.pool.promisedBytes,
      };
    } catch (error) {
      throw storageErrorOf('measure pool', directory, error);
    }
  }

  /**
   * Reads every layer that a snapshot names: makes checksums of those that have none, and compares the others.
   */
  scrub(options: ScrubOptions = {}): Promise<ScrubReport> {
    return this.pool.verb(['scrub'], () => scrubPool(this.pool, options));
  }

  /** Whose bytes the pool holds. Takes time in proportion to the extents of all layers. */
  usage(): Promise<PoolUsage> {
    return measureUsage(this.pool);
  }

  /** Waits for verbs that run, then gives the lock back. No verb that changes anything may follow. */
  async close(): Promise<void> {
    if (this.pool.closed) return;
    await this.closeKeepingLock();
    this.lock.release();
  }

  /** Closes, but keeps the lock: its descriptor, for `lockFd`, is the caller's from now on. */
  async closeKeepingLock(): Promise<number> {
    this.pool.closed = true;
    await this.pool.turns.settled();
    return this.lock.fd;
  }

  private async make(volumeId: string, sizeBytes: number): Promise<VolumeRecord> {
    return recordOf(await this.pool.makeVolume('create', { volumeId, sizeBytes, parent: null }));
  }

  /** The file first, then the layer, then the volume: at any time the larger holds the smaller. */
  private growHead(layerId: string, sizeBytes: number): Promise<void> {
    return this.pool.withLayer(layerId, async () => {
      const { graph, disk, paths } = this.pool;
      const layer = graph.layer(layerId);
      if (layer.sizeBytes >= sizeBytes) return;
      if (layer.zeroMapOffsetBytes !== null && sizeBytes > layer.zeroMapOffsetBytes) {
        const reason = `this file system takes layers of ${layer.zeroMapOffsetBytes} bytes at most`;
        throw new StorageError('invalid-argument', { op: 'grow volume', reason });
      }
      const file = await disk.open(paths.layerFile(layer.file), 'r+');
      try {
        // It is longer already when it has a zero map.
        const found = await disk.stat(paths.layerFile(layer.file));
        if (!found || found.sizeBytes < sizeBytes) await file.truncate(sizeBytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await this.pool.step('grow.file-grown');
      await this.pool.writeLayer({ ...layer, sizeBytes });
      await this.pool.step('grow.layer-written');
    });
  }
}

/** Can a volume have this size? */
export const isVolumeSize = (sizeBytes: number): boolean =>
  Number.isSafeInteger(sizeBytes) && sizeBytes > 0 && sizeBytes % BLOCK_BYTES === 0;

const recordOf = ({ id, sizeBytes, createdAt }: VolumeManifest): VolumeRecord => ({
  id,
  sizeBytes,
  createdAt,
});

/**
 * Probes a pool's file system. One that is full fails the probe, but a pool that is known passed it when it was new, and
 * must open all the same: its guests go on, and deleting a volume is what makes room.
 */
const probe = async ({ directory, pool }: PoolPaths): Promise<PoolAbilities | undefined> => {
  try {
    return await probePool(directory);
  } catch (error) {
    const full = error instanceof StorageError && error.kind === 'pool-full';
    if (!full || !existsSync(pool)) throw error;
    return undefined;
  }
};

/** Makes a directory and those above it. `mkdir` with `recursive` says ENOENT for a read-only file system (Node 20). */
const makeDirectory = async (path: string): Promise<void> => {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    await makeDirectory(dirname(path));
    await makeDirectory(path);
  }
};
