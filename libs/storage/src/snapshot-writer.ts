import { createHash } from 'node:crypto';
import { SNAPSHOT_BLOCK_BYTES } from './changed-blocks.js';
import type { DiskFile } from './disk.js';
import { walkData } from './extents.js';
import { layerFileOf } from './layer-file.js';
import { BLOCK_BYTES } from './layer-format.js';
import type { Pool } from './pool.js';
import { type LayerRecord, SNAPSHOT_ID, type SnapshotRecord } from './records.js';
import { isUncertain, StorageError, storageErrorOf } from './storage-error.js';

const DEFAULT_TIMEOUT_MS = 60 * 60 * 1000;

export interface StartSnapshot {
  snapshotId: string;
  sizeBytes: number;
  /** What is not put reads as in this one, else as zeroes. */
  parentSnapshotId?: string;
  description?: string;
  /** It is cancelled when nothing was put for so long. */
  timeoutMs?: number;
}

interface OpenedLayer {
  layer: LayerRecord;
  path: string;
  file: DiskFile;
}

// A snapshot that is written from blocks is a layer in which the blocks that were put are data, and nothing else: the
// file system's extent map is what counts them, so nothing is folded into it. A block is durable once its put resolves,
// so a snapshot outlives a restart and a power cut; only the time until it is cancelled begins anew then.

/** Makes snapshots of blocks that come from outside: start, put blocks in any order, complete. */
export class SnapshotWriter {
  /** When each is cancelled, unless something is put before. */
  private readonly deadlines = new Map<string, number>();
  /** Those that are being completed: nothing is put into them meanwhile. */
  private readonly sealing = new Set<string>();

  constructor(private readonly pool: Pool) {}

  /** Begins a snapshot. The same request again goes on with it; another is refused with `snapshot-exists`. */
  start(request: StartSnapshot): Promise<SnapshotRecord> {
    const { pool } = this;
    const op = 'start snapshot';
    const { snapshotId: id, sizeBytes, parentSnapshotId, timeoutMs = DEFAULT_TIMEOUT_MS } = request;
    if (
      !SNAPSHOT_ID.test(id) ||
      !Number.isSafeInteger(sizeBytes) ||
      sizeBytes <= 0 ||
      sizeBytes % BLOCK_BYTES
    ) {
      const reason = `snapshot ${id} of ${sizeBytes} bytes`;
      return Promise.reject(new StorageError('invalid-argument', { op, reason }));
    }
    return pool.verb([id], async () => {
      const found = pool.findSnapshot(id);
      if (found) {
        if (found.state !== 'writing' || found.sizeBytes !== sizeBytes)
          throw new StorageError('snapshot-exists', { op, reason: `there is a snapshot ${id}` });
        if (found.timeoutMs !== timeoutMs) await pool.writeSnapshot({ ...found, timeoutMs });
        this.touch(id, timeoutMs);
        return this.writing(op, id);
      }
      const parent = parentSnapshotId === undefined ? undefined : pool.completedSnapshot(parentSnapshotId);
      if (parent && parent.sizeBytes > sizeBytes) {
        const reason = `${parent.id} has ${parent.sizeBytes} bytes, asked for were ${sizeBytes}`;
        throw new StorageError('invalid-argument', { op, reason });
      }
      const release = parent && pool.graph.pin(parent.layer);
      try {
        const { layer, unpin } = await pool.makeLayer(sizeBytes, parent?.layer ?? null);
        await pool.step('write-snapshot.layer-made');
        const snapshot: SnapshotRecord = {
          id,
          volumeId: null,
          layer: layer.id,
          sizeBytes,
          state: 'writing',
          group: null,
          internal: false,
          description: request.description ?? '',
          createdAt: layer.createdAt,
          timeoutMs,
        };
        try {
          await pool.writeSnapshot(snapshot);
        } catch (error) {
          await pool.disk.remove(pool.paths.snapshot(id));
          throw error;
        } finally {
          unpin();
        }
        this.touch(id, timeoutMs);
        await pool.step('write-snapshot.started');
        return snapshot;
      } finally {
        release?.();
        await pool.collect();
      }
    });
  }

  /**
   * Puts a block, durably; the last may be shorter. Of two with one index the later stays.
   *
   * Rejects with `checksum-mismatch` when its SHA-256, in Base64, is another, and `snapshot-busy` while the snapshot is
   * being completed.
   */
  async putBlock(snapshotId: string, index: number, data: Uint8Array, checksum: string): Promise<void> {
    const op = 'put snapshot block';
    const seen = digestOf(data).toString('base64');
    if (seen !== checksum) {
      const reason = `block ${index} has the SHA-256 ${seen}, not ${checksum}`;
      throw new StorageError('checksum-mismatch', { op, reason });
    }
    const { path, file } = await this.pool.verb([snapshotId], async () => {
      const snapshot = this.writing(op, snapshotId);
      if (this.sealing.has(snapshotId)) throw busy(op, snapshotId);
      const offset = index * SNAPSHOT_BLOCK_BYTES;
      const length = Math.min(SNAPSHOT_BLOCK_BYTES, snapshot.sizeBytes - offset);
      if (!Number.isSafeInteger(index) || index < 0 || length <= 0 || data.length !== length) {
        const reason = `block ${index} of ${data.length} bytes`;
        throw new StorageError('invalid-argument', { op, reason });
      }
      const opened = await this.openLayer(op, snapshot);
      try {
        await opened.file.write(data, offset);
      } catch (error) {
        await opened.file.close();
        throw storageErrorOf(op, opened.path, error);
      }
      this.touch(snapshotId, timeoutOf(snapshot));
      return opened;
    });
    // Out of turn, so that those who put at once wait for the disk together; on the descriptor that wrote, which is told
    // of every failure since.
    try {
      await file.sync();
    } catch (error) {
      throw storageErrorOf(op, path, error);
    } finally {
      await file.close();
    }
    await this.pool.step('write-snapshot.block-written');
  }

  /**
   * Ends a snapshot: it never changes again. `checksum` is the SHA-256, in Base64, of the SHA-256 of each block that was
   * put, in the order of their indices (EBS: aggregation LINEAR). Reads all that was put, which may take long.
   *
   * Rejects with `checksum-mismatch` when the number of blocks or the checksum is another; then it may be gone on with.
   * Rejects with `snapshot-busy` while another call completes it, and `snapshot-not-found` when it is deleted meanwhile.
   */
  async complete(
    snapshotId: string,
    expected: { changedBlocks: number; checksum?: string },
  ): Promise<SnapshotRecord> {
    const op = 'complete snapshot';
    const { pool } = this;
    const { begun, opened } = await pool.verb([snapshotId], async () => {
      const found = pool.findSnapshot(snapshotId);
      if (found?.state === 'completed') return { begun: found, opened: undefined };
      const snapshot = this.writing(op, snapshotId);
      if (this.sealing.has(snapshotId)) throw busy(op, snapshotId);
      const layer = await this.openLayer(op, snapshot);
      this.sealing.add(snapshotId);
      return { begun: snapshot, opened: layer };
    });
    if (!opened) return begun;
    try {
      const { count, checksum } = await this.summarize(op, begun, opened);
      if (count !== expected.changedBlocks || (expected.checksum ?? checksum) !== checksum) {
        const reason = `${count} blocks with the checksum ${checksum} were put`;
        throw new StorageError('checksum-mismatch', { op, reason });
      }
      return await pool.verb([snapshotId], async () => {
        const { timeoutMs: _over, ...snapshot } = this.writing(op, snapshotId);
        const completed: SnapshotRecord = { ...snapshot, state: 'completed' };
        await pool.writeSnapshot(completed).catch((error: unknown) => {
          if (isUncertain(error)) {
            // Whether it may change still is not known: nothing is done with it until the pool is opened anew.
            const reason = `${snapshotId} needs its pool to be opened anew`;
            pool.broken.set(snapshotId, new StorageError('io', { op, reason }, { cause: error }));
          }
          throw error;
        });
        await pool.step('write-snapshot.completed');
        return completed;
      });
    } finally {
      this.sealing.delete(snapshotId);
      this.touch(snapshotId, timeoutOf(begun));
    }
  }

  /**
   * Removes the snapshots that nothing was put into for too long, and tells which. `now` is in milliseconds, like
   * Date.now().
   */
  async removeExpired(now = Date.now()): Promise<string[]> {
    const { pool } = this;
    const isExpired = (id: string): boolean => {
      const snapshot = pool.graph.snapshots.get(id);
      if (snapshot?.state !== 'writing' || this.sealing.has(id)) return false;
      return (this.deadlines.get(id) ?? this.touch(id, timeoutOf(snapshot))) <= now;
    };
    for (const id of this.deadlines.keys())
      if (pool.graph.snapshots.get(id)?.state !== 'writing') this.deadlines.delete(id);
    const removed: string[] = [];
    for (const id of [...pool.graph.snapshots.keys()].filter(isExpired)) {
      await pool.verb([id], async () => {
        // Something may have been put while this waited for its turn.
        if (!isExpired(id)) return;
        await pool.removeSnapshot(id);
        await pool.step('delete-snapshot.removed');
        await pool.collect();
        removed.push(id);
      });
    }
    return removed;
  }

  private touch(id: string, timeoutMs: number): number {
    const at = Date.now() + timeoutMs;
    this.deadlines.set(id, at);
    return at;
  }

  private writing(op: string, id: string): SnapshotRecord {
    const snapshot = this.pool.findSnapshot(id);
    if (snapshot?.state === 'writing') return snapshot;
    const reason = snapshot ? `${id} is ${snapshot.state}` : `no snapshot ${id} in this pool`;
    throw new StorageError('snapshot-not-found', { op, reason });
  }

  private async openLayer(op: string, { layer: id }: SnapshotRecord): Promise<OpenedLayer> {
    const { disk, graph, paths } = this.pool;
    const layer = graph.layer(id);
    const path = paths.layerFile(layer.file);
    try {
      return { layer, path, file: await disk.open(path, 'r+') };
    } catch (error) {
      throw storageErrorOf(op, path, error);
    }
  }

  /** How many blocks were put, and the checksum over theirs; closes the file. */
  private async summarize(
    op: string,
    snapshot: SnapshotRecord,
    { layer, path, file }: OpenedLayer,
  ): Promise<{ count: number; checksum: string }> {
    const { pool } = this;
    try {
      await file.sync();
      await pool.step('write-snapshot.flushed');
      const blocks: number[] = [];
      walkData(layerFileOf(layer, file), 0, snapshot.sizeBytes, (start, end) => {
        const last = Math.ceil(end / SNAPSHOT_BLOCK_BYTES);
        for (let index = Math.floor(start / SNAPSHOT_BLOCK_BYTES); index < last; index += 1) {
          if (blocks.at(-1) !== index) blocks.push(index);
        }
      });
      const hash = createHash('sha256');
      for (const index of blocks) {
        this.writing(op, snapshot.id);
        if (pool.closed) throw new StorageError('io', { op, path, reason: 'the pool was closed' });
        const offset = index * SNAPSHOT_BLOCK_BYTES;
        const data = new Uint8Array(Math.min(SNAPSHOT_BLOCK_BYTES, snapshot.sizeBytes - offset));
        await file.read(data, offset);
        hash.update(digestOf(data));
      }
      return { count: blocks.length, checksum: hash.digest('base64') };
    } catch (error) {
      throw storageErrorOf(op, path, error);
    } finally {
      await file.close();
    }
  }
}

const digestOf = (data: Uint8Array): Buffer => createHash('sha256').update(data).digest();

const timeoutOf = ({ timeoutMs = DEFAULT_TIMEOUT_MS }: SnapshotRecord): number => timeoutMs;

const busy = (op: string, id: string): StorageError =>
  new StorageError('snapshot-busy', { op, reason: `${id} is being completed` });
