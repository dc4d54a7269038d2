import type { SwitchHeads } from './chain.js';
import { BLOCK_BYTES } from './layer-format.js';
import type { Pool } from './pool.js';
import { makeId, VOLUME_ID, type VolumeManifest } from './records.js';
import type { Snapshots } from './snapshots.js';
import { isUncertain, StorageError } from './storage-error.js';

/** Volumes over layers of others: O(1), writable at once, and independent of how long the others live. */
export class Clones {
  constructor(
    private readonly pool: Pool,
    private readonly snapshots: Snapshots,
  ) {}

  /**
   * Makes a volume that begins as a snapshot, of its size or larger. The same request again changes nothing.
   *
   * Rejects with `snapshot-not-found`, `volume-size-mismatch` when the volume is there with another size, or `pool-full`.
   */
  fromSnapshot(request: {
    volumeId: string;
    snapshotId: string;
    sizeBytes?: number;
  }): Promise<VolumeManifest> {
    const op = 'create volume from snapshot';
    const { volumeId, snapshotId } = request;
    if (!VOLUME_ID.test(volumeId)) {
      return Promise.reject(new StorageError('invalid-argument', { op, reason: `volume ${volumeId}` }));
    }
    return this.pool.verb([volumeId], async () => {
      const found = this.pool.findVolume(volumeId);
      if (found) {
        if (request.sizeBytes === undefined || request.sizeBytes === found.sizeBytes) return found;
        const reason = `${volumeId} exists with ${found.sizeBytes} bytes, asked for were ${request.sizeBytes}`;
        throw new StorageError('volume-size-mismatch', { op, reason });
      }
      const snapshot = this.pool.completedSnapshot(snapshotId);
      const sizeBytes = request.sizeBytes ?? snapshot.sizeBytes;
      if (!Number.isSafeInteger(sizeBytes) || sizeBytes % BLOCK_BYTES || sizeBytes < snapshot.sizeBytes) {
        const reason = `${snapshotId} has ${snapshot.sizeBytes} bytes, asked for were ${sizeBytes}`;
        throw new StorageError('invalid-argument', { op, reason });
      }
      const release = this.pool.graph.pin(snapshot.layer);
      try {
        return await this.pool.makeVolume('clone', { volumeId, sizeBytes, parent: snapshot.layer });
      } finally {
        release();
      }
    });
  }

  /** Makes a volume that begins as another one is now, by a snapshot that is gone afterwards. */
  async ofVolume(
    request: { volumeId: string; sourceVolumeId: string; sizeBytes?: number },
    options: { switchHeads?: SwitchHeads } = {},
  ): Promise<VolumeManifest> {
    const { volumeId, sourceVolumeId, sizeBytes } = request;
    if (this.pool.findVolume(volumeId)) {
      return this.fromSnapshot({ ...request, snapshotId: '' });
    }
    const snapshotId = makeId('snap');
    const snapshot = { snapshotId, volumeId: sourceVolumeId, internal: true };
    await this.snapshots.take([snapshot], options);
    try {
      return await this.fromSnapshot({ volumeId, snapshotId, ...(sizeBytes !== undefined && { sizeBytes }) });
    } finally {
      await this.snapshots.delete(snapshotId);
    }
  }

  /**
   * Makes a detached volume read as one of its snapshots again; it keeps its size, and what was written since is gone.
   *
   * Rejects with `volume-in-use` while it is attached, `invalid-argument` when the snapshot is of another volume or
   * larger.
   */
  revert(volumeId: string, snapshotId: string): Promise<VolumeManifest> {
    const op = 'revert volume';
    return this.pool.verb([volumeId], async () => {
      const volume = this.pool.volume(volumeId);
      const snapshot = this.pool.completedSnapshot(snapshotId);
      if (this.pool.live.has(volumeId)) {
        throw new StorageError('volume-in-use', { op, reason: `${volumeId} is attached` });
      }
      if (snapshot.volumeId !== volumeId || snapshot.sizeBytes > volume.sizeBytes) {
        const reason = `${snapshotId} is of ${snapshot.volumeId ?? 'no volume'}, ${snapshot.sizeBytes} bytes`;
        throw new StorageError('invalid-argument', { op, reason });
      }
      const releases = [this.pool.graph.pin(snapshot.layer), this.pool.graph.pin(volume.headLayer)];
      let kept = false;
      try {
        const { layer, unpin } = await this.pool.makeLayer(volume.sizeBytes, snapshot.layer);
        await this.pool.step('revert.layer-made');
        const reverted = { ...volume, headLayer: layer.id };
        try {
          await this.pool.writeVolume(reverted);
        } catch (error) {
          if (!isUncertain(error)) {
            unpin();
          } else {
            // Which head the manifest names is not known: both stay until the pool is opened next, and the volume is
            // not used until then, as a write to either could be lost.
            kept = true;
            const reason = `${volumeId} needs its pool to be opened anew`;
            this.pool.broken.set(volumeId, new StorageError('io', { op, reason }, { cause: error }));
          }
          throw error;
        }
        unpin();
        await this.pool.step('revert.head-named');
        return reverted;
      } finally {
        if (!kept) for (const release of releases) release();
        await this.pool.collect();
      }
    });
  }
}
