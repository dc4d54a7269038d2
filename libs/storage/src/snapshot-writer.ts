import { createHash } from 'node:crypto';
import { SNAPSHOT_BLOCK_BYTES } from './changed-blocks.js';
import type { DiskFile } from './disk.js';
import { walkData } from './extents.js';
import { layerFileOf } from './layer-file.js';
import { BLOCK_BYTES } from './layer-format.js';
import type { Pool } from './pool.js';
import { SNAPSHOT_ID, type SnapshotRecord } from './records.js';
import { StorageError, storageErrorOf } from './storage-error.js';

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

// A snapshot that is written from blocks is a layer in which the blocks that were put are data, and nothing else: the
// file system's extent map is what counts them. It outlives a restart; the time until it is cancelled begins anew then.

/** Makes snapshots of blocks that come from outside: start, put blocks in any order, complete. */
export class SnapshotWriter {
  private readonly deadlines = new Map<string, { timeoutMs: number; at: number }>();

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
        this.touch(id, timeoutMs);
        return found;
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

  /** Puts a block; the last may be shorter. Rejects with `checksum-mismatch` when its SHA-256, in Base64, is another. */
  putBlock(snapshotId: string, index: number, data: Uint8Array, checksum: string): Promise<void> {
    const op = 'put snapshot block';
    return this.pool.verb([snapshotId], async () => {
      const snapshot = this.writing(op, snapshotId);
      const offset = index * SNAPSHOT_BLOCK_BYTES;
      const length = Math.min(SNAPSHOT_BLOCK_BYTES, snapshot.sizeBytes - offset);
      if (!Number.isSafeInteger(index) || index < 0 || length <= 0 || data.length !== length) {
        const reason = `block ${index} of ${data.length} bytes`;
        throw new StorageError('invalid-argument', { op, reason });
      }
      const seen = digestOf(data).toString('base64');
      if (seen !== checksum) {
        const reason = `block ${index} has the SHA-256 ${seen}, not ${checksum}`;
        throw new StorageError('checksum-mismatch', { op, reason });
      }
      await this.withLayer(op, snapshot, (file) => file.write(data, offset));
      this.touch(snapshotId);
      await this.pool.step('write-snapshot.block-written');
    });
  }

  /**
   * Ends a snapshot: it never changes again. `checksum` is the SHA-256, in Base64, of the SHA-256 of each block that was
   * put, in the order of their indices (EBS: aggregation LINEAR).
   *
   * Rejects with `checksum-mismatch` when the number of blocks or the checksum is another; then it may be gone on with.
   */
  complete(
    snapshotId: string,
    expected: { changedBlocks: number; checksum?: string },
  ): Promise<SnapshotRecord> {
    const op = 'complete snapshot';
    return this.pool.verb([snapshotId], async () => {
      const found = this.pool.findSnapshot(snapshotId);
      if (found?.state === 'completed') return found;
      const snapshot = this.writing(op, snapshotId);
      await this.withLayer(op, snapshot, async (file) => {
        await file.sync();
        await this.pool.step('write-snapshot.flushed');
        const { count, checksum } = await this.summarize(snapshot, file);
        if (count !== expected.changedBlocks || (expected.checksum ?? checksum) !== checksum) {
          const reason = `${count} blocks with the checksum ${checksum} were put`;
          throw new StorageError('checksum-mismatch', { op, reason });
        }
      });
      const completed: SnapshotRecord = { ...snapshot, state: 'completed' };
      await this.pool.writeSnapshot(completed);
      this.deadlines.delete(snapshotId);
      await this.pool.step('write-snapshot.completed');
      return completed;
    });
  }

  /** Snapshots that nothing was put into for too long: to be deleted. `now` is in milliseconds, like Date.now(). */
  listExpired(now = Date.now()): string[] {
    return [...this.pool.graph.snapshots.values()].flatMap(({ id, state }) => {
      if (state !== 'writing') return [];
      const deadline = this.deadlines.get(id) ?? this.touch(id);
      return deadline.at <= now ? [id] : [];
    });
  }

  private touch(id: string, timeoutMs?: number): { timeoutMs: number; at: number } {
    const limit = timeoutMs ?? this.deadlines.get(id)?.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const deadline = { timeoutMs: limit, at: Date.now() + limit };
    this.deadlines.set(id, deadline);
    return deadline;
  }

  private writing(op: string, id: string): SnapshotRecord {
    const snapshot = this.pool.findSnapshot(id);
    if (snapshot?.state === 'writing') return snapshot;
    const reason = snapshot ? `${id} is ${snapshot.state}` : `no snapshot ${id} in this pool`;
    throw new StorageError('snapshot-not-found', { op, reason });
  }

  private withLayer(
    op: string,
    { layer }: SnapshotRecord,
    work: (file: DiskFile) => Promise<void>,
  ): Promise<void> {
    const { pool } = this;
    return pool.withLayer(layer, async () => {
      const path = pool.paths.layerFile(pool.graph.layer(layer).file);
      try {
        const file = await pool.disk.open(path, 'r+');
        try {
          await work(file);
        } finally {
          await file.close();
        }
      } catch (error) {
        throw storageErrorOf(op, path, error);
      }
    });
  }

  /** How many blocks were put, and the checksum over theirs. */
  private async summarize(
    snapshot: SnapshotRecord,
    file: DiskFile,
  ): Promise<{ count: number; checksum: string }> {
    const blocks: number[] = [];
    walkData(
      layerFileOf(this.pool.graph.layer(snapshot.layer), file),
      0,
      snapshot.sizeBytes,
      (start, end) => {
        const last = Math.ceil(end / SNAPSHOT_BLOCK_BYTES);
        for (let index = Math.floor(start / SNAPSHOT_BLOCK_BYTES); index < last; index += 1) {
          if (blocks.at(-1) !== index) blocks.push(index);
        }
      },
    );
    const hash = createHash('sha256');
    for (const index of blocks) {
      const offset = index * SNAPSHOT_BLOCK_BYTES;
      const data = new Uint8Array(Math.min(SNAPSHOT_BLOCK_BYTES, snapshot.sizeBytes - offset));
      await file.read(data, offset);
      hash.update(digestOf(data));
    }
    return { count: blocks.length, checksum: hash.digest('base64') };
  }
}

const digestOf = (data: Uint8Array): Buffer => createHash('sha256').update(data).digest();
