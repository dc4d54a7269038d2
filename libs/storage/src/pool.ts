import { statfs } from 'node:fs/promises';
import { writeFileAtomic } from './atomic-file.js';
import type { ChainLayer, LiveVolume, VolumeChain } from './chain.js';
import type { Disk } from './disk.js';
import { PoolGraph } from './pool-graph.js';
import type { PoolPaths } from './pool-paths.js';
import {
  type LayerRecord,
  makeId,
  sealLayer,
  sealSnapshot,
  sealVolume,
  type SnapshotRecord,
  type VolumeManifest,
} from './records.js';
import type { OnStep, Step } from './steps.js';
import { StorageError, storageErrorOf } from './storage-error.js';
import { Turns } from './turns.js';

export interface PoolOptions {
  paths: PoolPaths;
  poolId: string;
  disk: Disk;
  /** How many bytes may be promised for each byte of the file system. */
  overcommitRatio: number;
  /** Where new layers have their zero map. */
  zeroMapOffsetBytes: number;
  onStep?: OnStep | undefined;
}

/** What the verbs share: the graph, the files below it, and the order in which they may change. */
export class Pool {
  readonly graph = new PoolGraph();
  readonly turns = new Turns();
  readonly paths: PoolPaths;
  readonly poolId: string;
  readonly disk: Disk;
  readonly overcommitRatio: number;
  readonly zeroMapOffsetBytes: number;
  /** Volumes, snapshots and layers that are there but not understood, by id. */
  readonly broken = new Map<string, StorageError>();
  /** Attached volumes, by id, each with the layers that it may be writing to: two while a head is switched. */
  readonly live = new Map<string, { volume: LiveVolume; writes: Set<string> }>();
  /** Volumes whose head has been replaced by name, and not yet by those who serve it. */
  readonly switching = new Set<string>();
  /** Layers that are being folded: nothing else may remove them. */
  readonly folding = new Set<string>();
  /**
   * Layers of which a fold has copied something into the only child, and was given up: by layer, that child. Who reads
   * through the child may still know the block to be the layer's, so that it must stay there.
   */
  readonly copiedUp = new Map<string, string>();
  /** Layers without a manifest: what a full pool of the first version has until there is room. */
  readonly unwritten = new Set<string>();
  closed = false;
  private readonly wanted = new Map<string, number>();
  private readonly onStep: OnStep | undefined;
  private reservedBytes = 0;

  constructor(options: PoolOptions) {
    this.paths = options.paths;
    this.poolId = options.poolId;
    this.disk = options.disk;
    this.overcommitRatio = options.overcommitRatio;
    this.zeroMapOffsetBytes = options.zeroMapOffsetBytes;
    this.onStep = options.onStep;
  }

  async step(step: Step): Promise<void> {
    await this.onStep?.(step);
  }

  /** Runs a verb in the turn of everything it touches. Rejects when the pool is closed. */
  verb<T>(keys: readonly string[], work: () => Promise<T>): Promise<T> {
    if (this.closed) {
      const reason = 'the pool was closed';
      return Promise.reject(new StorageError('io', { op: 'use pool', path: this.paths.directory, reason }));
    }
    return this.turns.run(keys, work);
  }

  /** Runs what no fold of the layer may run beside; a fold that is under way ends early. */
  async withLayer<T>(id: string, work: () => Promise<T>): Promise<T> {
    this.wanted.set(id, (this.wanted.get(id) ?? 0) + 1);
    try {
      return await this.turns.run([id], work);
    } finally {
      const left = this.wanted.get(id)! - 1;
      if (left === 0) this.wanted.delete(id);
      else this.wanted.set(id, left);
    }
  }

  /** Does a verb wait for the layer? */
  isWanted(id: string): boolean {
    return this.wanted.has(id);
  }

  /** Who may be writing to the layer; undefined when nobody does. */
  writerOf(id: string): LiveVolume | undefined {
    for (const { volume, writes } of this.live.values()) if (writes.has(id)) return volume;
    return undefined;
  }

  // ---- what is there --------------------------------------------------------------------------------------------

  /** Throws `manifest-corrupt` for one that is not understood. */
  findVolume(id: string): VolumeManifest | undefined {
    const error = this.broken.get(id);
    if (error) throw error;
    return this.graph.volumes.get(id);
  }

  /** Throws `volume-not-found`, or as `findVolume`. */
  volume(id: string): VolumeManifest {
    const volume = this.findVolume(id);
    if (volume) return volume;
    throw new StorageError('volume-not-found', {
      op: 'find volume',
      reason: `no volume ${id} in this pool`,
    });
  }

  /** Throws `manifest-corrupt` for one that is not understood. */
  findSnapshot(id: string): SnapshotRecord | undefined {
    const error = this.broken.get(id);
    if (error) throw error;
    return this.graph.snapshots.get(id);
  }

  /** Throws `snapshot-not-found`, also for one that is not completed, or as `findSnapshot`. */
  completedSnapshot(id: string): SnapshotRecord {
    const snapshot = this.findSnapshot(id);
    if (snapshot?.state === 'completed') return snapshot;
    const reason = snapshot ? `${id} is ${snapshot.state}` : `no snapshot ${id} in this pool`;
    throw new StorageError('snapshot-not-found', { op: 'find snapshot', reason });
  }

  chainLayers(headLayer: string): ChainLayer[] {
    return this.graph.chainOf(headLayer).map(({ id, file, sizeBytes, zeroMapOffsetBytes }) => ({
      id,
      path: this.paths.layerFile(file),
      sizeBytes,
      zeroMapOffsetBytes: zeroMapOffsetBytes ?? undefined,
    }));
  }

  chainOf({ id, sizeBytes, headLayer }: VolumeManifest): VolumeChain {
    return { volumeId: id, sizeBytes, layers: this.chainLayers(headLayer) };
  }

  // ---- promised space -------------------------------------------------------------------------------------------

  get promisedBytes(): number {
    let sum = this.reservedBytes;
    for (const { sizeBytes } of this.graph.volumes.values()) sum += sizeBytes;
    return sum;
  }

  /**
   * Runs what promises so many bytes more. Rejects with `pool-full` when they go over the over-commit ratio; two at once
   * cannot both take what is left.
   */
  async promising<T>(op: string, bytes: number, work: () => Promise<T>): Promise<T> {
    this.reservedBytes += bytes;
    try {
      const { blocks, bsize } = await statfs(this.paths.directory);
      const totalBytes = blocks * bsize;
      if (this.promisedBytes > totalBytes * this.overcommitRatio) {
        throw new StorageError('pool-full', {
          op,
          path: this.paths.directory,
          reason: `${this.promisedBytes} bytes would be promised, ${totalBytes} × ${this.overcommitRatio} may be`,
          remedy: 'Delete volumes, add space, or raise the over-commit ratio',
        });
      }
      return await work();
    } catch (error) {
      throw storageErrorOf(op, this.paths.directory, error);
    } finally {
      this.reservedBytes -= bytes;
    }
  }

  /** Makes a volume over `parent`, or over nothing: its layer first, then its manifest; neither stays when one fails. */
  makeVolume(
    verb: 'create' | 'clone',
    request: { volumeId: string; sizeBytes: number; parent: string | null },
  ): Promise<VolumeManifest> {
    const { volumeId, sizeBytes, parent } = request;
    return this.promising(`${verb} volume`, sizeBytes, async () => {
      const { layer, unpin } = await this.makeLayer(sizeBytes, parent);
      const volume = { id: volumeId, headLayer: layer.id, sizeBytes, createdAt: layer.createdAt };
      try {
        await this.step(`${verb}.layer-made`);
        await this.writeVolume(volume);
      } catch (error) {
        // The manifest may be in place although it is not known to be durable.
        await this.disk.remove(this.paths.volume(volumeId));
        unpin();
        await this.collect();
        throw error;
      }
      unpin();
      await this.step(`${verb}.volume-written`);
      return volume;
    });
  }

  // ---- what is written down -------------------------------------------------------------------------------------

  /** Writes a layer's manifest, durably, and then knows it so. */
  async writeLayer(layer: LayerRecord): Promise<void> {
    await this.write('write layer', this.paths.layer(layer.id), sealLayer(layer));
    this.graph.putLayer(layer);
    this.unwritten.delete(layer.id);
  }

  /** Writes a volume's manifest, durably, and then knows it so. */
  async writeVolume(volume: VolumeManifest): Promise<void> {
    await this.write('write volume', this.paths.volume(volume.id), sealVolume(volume));
    this.graph.volumes.set(volume.id, volume);
  }

  async removeVolume(id: string): Promise<void> {
    await this.remove('delete volume', this.paths.volume(id), this.paths.volumes);
    this.graph.volumes.delete(id);
  }

  /** Writes a snapshot's manifest, durably, and then knows it so. */
  async writeSnapshot(snapshot: SnapshotRecord): Promise<void> {
    await this.write('write snapshot', this.paths.snapshot(snapshot.id), sealSnapshot(snapshot));
    this.graph.snapshots.set(snapshot.id, snapshot);
  }

  async removeSnapshot(id: string): Promise<void> {
    await this.remove('delete snapshot', this.paths.snapshot(id), this.paths.snapshots);
    this.graph.snapshots.delete(id);
  }

  /**
   * Makes an empty layer, durably. The caller has pinned the parent; the layer comes pinned, too, and `unpin` is called
   * when something names it or nothing will.
   */
  async makeLayer(
    sizeBytes: number,
    parent: string | null,
  ): Promise<{ layer: LayerRecord; unpin: () => void }> {
    if (parent !== null && sizeBytes > this.zeroMapOffsetBytes) {
      const reason = `this file system takes layers of ${this.zeroMapOffsetBytes} bytes at most`;
      throw new StorageError('invalid-argument', { op: 'create layer', reason });
    }
    if (parent !== null && this.unwritten.has(parent)) await this.writeLayer(this.graph.layer(parent));
    const id = makeId('lay');
    const layer: LayerRecord = {
      id,
      file: `${id}.img`,
      parent,
      sizeBytes,
      zeroMapOffsetBytes: parent === null ? null : this.zeroMapOffsetBytes,
      createdAt: new Date().toISOString(),
    };
    const path = this.paths.layerFile(layer.file);
    try {
      const file = await this.disk.open(path, 'wx+');
      try {
        await file.truncate(sizeBytes);
        await file.sync();
      } finally {
        await file.close();
      }
      // Also makes the name of the file durable: both lie in one directory.
      await writeFileAtomic(this.paths.layer(id), sealLayer(layer), this.disk);
    } catch (error) {
      await this.disk.remove(this.paths.layer(id));
      await this.disk.remove(path);
      throw storageErrorOf('create layer', path, error);
    }
    const unpin = this.graph.pin(id);
    this.graph.putLayer(layer);
    return { layer, unpin };
  }

  /** Removes the layers that nobody needs; none while something in the pool is not understood, as it may need them. */
  collect(): Promise<void> {
    return this.turns
      .run(['collect'], async () => {
        if (this.broken.size > 0) return;
        for (;;) {
          const garbage = this.graph.listGarbage().filter(({ id }) => !this.folding.has(id));
          if (garbage.length === 0) return;
          for (const { id } of garbage) {
            await this.disk.remove(this.paths.layer(id));
            await this.disk.remove(this.paths.layerSums(id));
          }
          await this.disk.syncDirectory(this.paths.layers);
          await this.step('collect.manifest-removed');
          for (const layer of garbage) {
            this.graph.dropLayer(layer.id);
            await this.removeFile(layer.file);
          }
        }
      })
      .catch((error: unknown) => {
        throw storageErrorOf('remove layer', this.paths.layers, error);
      });
  }

  /** Removes a layer's file, unless a layer has it. */
  async removeFile(file: string): Promise<void> {
    if (this.graph.listLayers().some((layer) => layer.file === file)) return;
    await this.disk.remove(this.paths.layerFile(file));
    await this.step('collect.file-removed');
  }

  private async write(op: string, path: string, text: string): Promise<void> {
    try {
      await writeFileAtomic(path, text, this.disk);
    } catch (error) {
      throw storageErrorOf(op, path, error);
    }
  }

  private async remove(op: string, path: string, directory: string): Promise<void> {
    try {
      await this.disk.remove(path);
      await this.disk.syncDirectory(directory);
    } catch (error) {
      throw storageErrorOf(op, path, error);
    }
  }
}
