import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { SCRATCH_MARK, syncDirectory, writeFileAtomic } from './atomic-file.js';
import { LAYER_ID, type Manifest, readManifest, VOLUME_ID, writeManifest } from './manifest.js';
import { lockPool } from './pool-lock.js';
import { probePool } from './pool-probe.js';
import { StorageError, storageErrorOf } from './storage-error.js';

// pool/pool.json               who the pool is
// pool/lock                    held while a data plane uses it
// pool/volumes/vol-….json      manifest: the volume's layers, head first
// pool/layers/lay-….img        sparse file; offset in the layer = offset in the volume
//
// A layer exists before a manifest names it and until none does any more; so what a crash leaves behind is a layer
// that nobody names, which the next open removes.

const POOL_FILE = 'pool.json';
const POOL_ID = /^pool-[0-9a-f]{16}$/;
const POOL_VERSION = 1;
const BLOCK_BYTES = 4096;
const DEFAULT_OVERCOMMIT_RATIO = 10;
const STAT_BLOCK_BYTES = 512;

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
}

/** Bytes of a pool: of its file system in all, free there, and promised to volumes. */
export interface PoolCapacity {
  totalBytes: number;
  freeBytes: number;
  provisionedBytes: number;
}

/** The volumes of one pool directory. Verbs on one volume run one after the other. Every failure is a StorageError. */
export class VolumeStore {
  private readonly volumes = new Map<string, Manifest>();
  private readonly broken = new Map<string, StorageError>();
  private readonly tails = new Map<string, Promise<unknown>>();
  private promisedBytes = 0;
  private closed = false;

  private constructor(
    private readonly directory: string,
    readonly poolId: string,
    private readonly overcommitRatio: number,
    private readonly unlock: () => void,
  ) {}

  /**
   * Opens a pool; makes the directory when it is not there.
   *
   * Rejects when it is not writable, locked by another data plane, or on a file system that fails the probe; a new pool
   * also when it is full. A volume whose manifest is not understood does not keep the others from being served: `find`
   * throws for it alone.
   */
  static async open(options: VolumeStoreOptions): Promise<VolumeStore> {
    const directory = resolve(options.directory);
    try {
      await makeDirectory(join(directory, 'volumes'));
      await makeDirectory(join(directory, 'layers'));
    } catch (error) {
      throw storageErrorOf('open pool', directory, error);
    }
    const unlock = lockPool(join(directory, 'lock'));
    try {
      await removeScratch(directory);
      await probe(directory);
      const poolId = await readPoolId(join(directory, POOL_FILE));
      const ratio = options.overcommitRatio ?? DEFAULT_OVERCOMMIT_RATIO;
      const store = new VolumeStore(directory, poolId, ratio, unlock);
      await store.load();
      return store;
    } catch (error) {
      unlock();
      throw storageErrorOf('open pool', directory, error);
    }
  }

  /** Makes a volume that reads as zeroes. The same request again changes nothing; another size is refused. */
  create(request: { volumeId: string; sizeBytes: number }): Promise<VolumeRecord> {
    const { volumeId, sizeBytes } = request;
    if (
      !VOLUME_ID.test(volumeId) ||
      !Number.isSafeInteger(sizeBytes) ||
      sizeBytes <= 0 ||
      sizeBytes % BLOCK_BYTES
    ) {
      const reason = `volume ${volumeId} of ${sizeBytes} bytes`;
      return Promise.reject(new StorageError('invalid-argument', { op: 'create volume', reason }));
    }
    return this.inTurn(volumeId, async () => {
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
    const error = this.broken.get(volumeId);
    if (error) throw error;
    const manifest = this.volumes.get(volumeId);
    return manifest && recordOf(manifest);
  }

  list(): VolumeRecord[] {
    return [...this.volumes.values()].map(recordOf);
  }

  /** Volumes that are there but not understood, each with the reason. */
  listBroken(): { id: string; reason: string }[] {
    return [...this.broken].map(([id, error]) => ({ id, reason: error.message }));
  }

  /** Removes a volume and its bytes; one that is not there is no error. */
  delete(volumeId: string): Promise<void> {
    return this.inTurn(volumeId, async () => {
      if (!this.find(volumeId)) return;
      const manifest = this.volumes.get(volumeId)!;
      const path = this.manifestPath(volumeId);
      try {
        await rm(path, { force: true });
        await syncDirectory(join(this.directory, 'volumes'));
      } catch (error) {
        throw storageErrorOf('delete volume', path, error);
      }
      this.volumes.delete(volumeId);
      this.promisedBytes -= manifest.sizeBytes;
      for (const layer of manifest.layers) await this.removeLayer(layer);
    });
  }

  /** Path of the head layer: the file that a guest reads and writes. */
  filePath(volumeId: string): string {
    this.find(volumeId);
    const [head] = this.volumes.get(volumeId)?.layers ?? [];
    if (head === undefined) {
      throw new StorageError('volume-not-found', {
        op: 'find volume',
        reason: `no volume ${volumeId} in this pool`,
      });
    }
    return this.layerPath(head);
  }

  /** Bytes that the volume really takes on the file system. */
  async allocatedBytes(volumeId: string): Promise<number> {
    const path = this.filePath(volumeId);
    try {
      return (await stat(path)).blocks * STAT_BLOCK_BYTES;
    } catch (error) {
      throw storageErrorOf('measure volume', path, error);
    }
  }

  async capacity(): Promise<PoolCapacity> {
    try {
      const { blocks, bavail, bsize } = await statfs(this.directory);
      return { totalBytes: blocks * bsize, freeBytes: bavail * bsize, provisionedBytes: this.promisedBytes };
    } catch (error) {
      throw storageErrorOf('measure pool', this.directory, error);
    }
  }

  /** Waits for verbs that run, then gives the lock back. No verb that changes anything may follow. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await Promise.allSettled(this.tails.values());
    this.unlock();
  }

  private async make(volumeId: string, sizeBytes: number): Promise<VolumeRecord> {
    // Promised before the first await, so that two volumes at once cannot both take what is left.
    this.promisedBytes += sizeBytes;
    try {
      const { totalBytes, provisionedBytes } = await this.capacity();
      if (provisionedBytes > totalBytes * this.overcommitRatio) {
        throw new StorageError('pool-full', {
          op: 'create volume',
          path: this.directory,
          reason: `${provisionedBytes} bytes would be promised, ${totalBytes} × ${this.overcommitRatio} may be`,
          remedy: 'Delete volumes, add space, or raise the over-commit ratio',
        });
      }
      const layer = `lay-${randomBytes(8).toString('hex')}`;
      await this.makeLayer(layer, sizeBytes);
      const manifest = { volumeId, sizeBytes, createdAt: new Date().toISOString(), layers: [layer] };
      try {
        await writeManifest(this.manifestPath(volumeId), manifest);
      } catch (error) {
        await this.unmake(volumeId, layer);
        throw error;
      }
      this.volumes.set(volumeId, manifest);
      return recordOf(manifest);
    } catch (error) {
      this.promisedBytes -= sizeBytes;
      throw error;
    }
  }

  /** Takes back what may be there of a volume: the manifest may be in place although it is not known to be durable. */
  private async unmake(volumeId: string, layer: string): Promise<void> {
    const path = this.manifestPath(volumeId);
    try {
      await rm(path, { force: true });
    } catch (error) {
      throw storageErrorOf('delete volume', path, error);
    }
    await this.removeLayer(layer);
  }

  private async makeLayer(layer: string, sizeBytes: number): Promise<void> {
    const path = this.layerPath(layer);
    try {
      const file = await open(path, 'wx', 0o600);
      try {
        await file.truncate(sizeBytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await syncDirectory(join(this.directory, 'layers'));
    } catch (error) {
      await rm(path, { force: true });
      throw storageErrorOf('create layer', path, error);
    }
  }

  private async removeLayer(layer: string): Promise<void> {
    const path = this.layerPath(layer);
    try {
      await rm(path, { force: true });
    } catch (error) {
      throw storageErrorOf('remove layer', path, error);
    }
  }

  private async load(): Promise<void> {
    for (const name of await readdir(join(this.directory, 'volumes'))) {
      const volumeId = name.replace(/\.json$/, '');
      if (!name.endsWith('.json') || !VOLUME_ID.test(volumeId)) continue;
      try {
        const manifest = await readManifest(this.manifestPath(volumeId), volumeId);
        await this.checkLayers(manifest);
        this.volumes.set(volumeId, manifest);
        this.promisedBytes += manifest.sizeBytes;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        this.broken.set(volumeId, error);
      }
    }
    // While a manifest is not understood, no layer can be called nobody's.
    if (this.broken.size === 0) await this.removeOrphans();
  }

  private async checkLayers(manifest: Manifest): Promise<void> {
    for (const layer of manifest.layers) {
      const path = this.layerPath(layer);
      const size = await stat(path).then(
        (file) => file.size,
        (error: NodeJS.ErrnoException) => {
          if (error.code === 'ENOENT') return undefined;
          throw storageErrorOf('check layer', path, error);
        },
      );
      if (size === manifest.sizeBytes) continue;
      const reason =
        size === undefined ? 'the layer is missing' : `it has ${size} bytes, not ${manifest.sizeBytes}`;
      const remedy = 'Put back the layer from a backup';
      throw new StorageError('manifest-corrupt', { op: 'check layer', path, reason, remedy });
    }
  }

  private async removeOrphans(): Promise<void> {
    const named = new Set([...this.volumes.values()].flatMap((manifest) => manifest.layers));
    for (const name of await readdir(join(this.directory, 'layers'))) {
      const layer = name.replace(/\.img$/, '');
      if (name.endsWith('.img') && LAYER_ID.test(layer) && !named.has(layer)) await this.removeLayer(layer);
    }
  }

  private inTurn<T>(volumeId: string, work: () => Promise<T>): Promise<T> {
    if (this.closed) {
      const reason = 'the pool was closed';
      return Promise.reject(new StorageError('io', { op: 'use pool', path: this.directory, reason }));
    }
    const before = this.tails.get(volumeId) ?? Promise.resolve();
    const result = before.then(work, work);
    this.tails.set(volumeId, result);
    const forget = (): void => {
      if (this.tails.get(volumeId) === result) this.tails.delete(volumeId);
    };
    result.then(forget, forget);
    return result;
  }

  private manifestPath(volumeId: string): string {
    return join(this.directory, 'volumes', `${volumeId}.json`);
  }

  private layerPath(layer: string): string {
    return join(this.directory, 'layers', `${layer}.img`);
  }
}

const recordOf = ({ volumeId, sizeBytes, createdAt }: Manifest): VolumeRecord => ({
  id: volumeId,
  sizeBytes,
  createdAt,
});

/**
 * Probes a pool's file system. One that is full fails the probe, but a pool that is known passed it when it was new, and
 * must open all the same: its guests go on, and deleting a volume is what makes room.
 */
const probe = async (directory: string): Promise<void> => {
  try {
    await probePool(directory);
  } catch (error) {
    const full = error instanceof StorageError && error.kind === 'pool-full';
    if (!full || !existsSync(join(directory, POOL_FILE))) throw error;
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

/** Removes what atomic writes and probes left unfinished when a process died. */
const removeScratch = async (directory: string): Promise<void> => {
  for (const folder of [directory, join(directory, 'volumes')]) {
    for (const name of await readdir(folder)) {
      if (name.includes(SCRATCH_MARK)) await rm(join(folder, name), { force: true });
    }
  }
};

/** The pool's id, made and written down when the pool is new. */
const readPoolId = async (path: string): Promise<string> => {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const poolId = `pool-${randomBytes(8).toString('hex')}`;
    await writeFileAtomic(path, `${JSON.stringify({ version: POOL_VERSION, poolId })}\n`);
    return poolId;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const { version, poolId } = (value ?? {}) as Record<string, unknown>;
  if (version !== POOL_VERSION || typeof poolId !== 'string' || !POOL_ID.test(poolId)) {
    throw new StorageError('manifest-corrupt', {
      op: 'open pool',
      path,
      reason: 'it is not what this version writes',
      remedy: 'Put back the file from a backup, or give an empty directory',
    });
  }
  return poolId;
};
