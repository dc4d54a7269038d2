import type { HeadSwitch, SwitchHeads, VolumeChain } from './chain.js';
import type { Pool } from './pool.js';
import { isGroupId, SNAPSHOT_ID, type SnapshotRecord, type VolumeManifest } from './records.js';
import { isUncertain, StorageError, storageErrorOf } from './storage-error.js';

/** What is asked for of one volume. */
export interface SnapshotRequest {
  snapshotId: string;
  volumeId: string;
  description?: string;
  /** For another verb: removed by it, or when the pool is opened next. */
  internal?: boolean;
}

/** Snapshots that were prepared: every volume has a new, empty head by name, and is still written under the old one. */
export interface PreparedSnapshots {
  /** Of attached volumes; those of detached ones are made already. */
  readonly switches: readonly HeadSwitch[];
  /** Every head was switched: the snapshots are completed. */
  commit(): Promise<SnapshotRecord[]>;
  /** Not every head was switched: there are no snapshots. Volumes that did go over stay where they are. */
  abort(): Promise<void>;
}

// A snapshot is a name for what was the head.
//
//   1. a new, empty layer over the head, durable
//   2. the snapshot's manifest, `pending`, naming the old head
//   3. the volume's manifest names the new head: reads the same, as that is empty
//   4. the switch: no request in flight, the old head durable, requests go to the new head from now on
//   5. the snapshot's manifest, `completed`
//
// After a crash before 5 the snapshot is gone, and the volume has a layer more than it needs, which is folded away.

/** Takes, finds and deletes snapshots. */
export class Snapshots {
  constructor(private readonly pool: Pool) {}

  /** Throws `manifest-corrupt` for one that is there but not understood. */
  find(snapshotId: string): SnapshotRecord | undefined {
    return this.pool.findSnapshot(snapshotId);
  }

  /** What a completed snapshot is read from; its head is never written. Throws `snapshot-not-found`. */
  chain(snapshotId: string): VolumeChain {
    const { id, sizeBytes, layer } = this.pool.completedSnapshot(snapshotId);
    return { volumeId: id, sizeBytes, layers: this.pool.chainLayers(layer) };
  }

  list(): SnapshotRecord[] {
    return [...this.pool.graph.snapshots.values()].filter(({ internal }) => !internal);
  }

  /** Snapshots that are there but not understood, each with the reason. */
  listBroken(): { id: string; reason: string }[] {
    return [...this.pool.broken].flatMap(([id, { message }]) =>
      SNAPSHOT_ID.test(id) ? [{ id, reason: message }] : [],
    );
  }

  /**
   * Takes snapshots of volumes at one point in time: all of them or none. The same request again changes nothing.
   *
   * Attached volumes go over in `switchHeads`; without it they are refused with `volume-in-use`. Of a detached volume,
   * everything that was written is made durable first. Rejects with `volume-busy` while a snapshot of one is being taken,
   * and `snapshot-exists` when an id is that of another snapshot.
   */
  async take(
    requests: readonly SnapshotRequest[],
    options: { group?: string; switchHeads?: SwitchHeads } = {},
  ): Promise<SnapshotRecord[]> {
    const before = this.findAll(requests);
    if (before) return before;
    const prepared = await this.prepare(requests, options.group);
    try {
      if (prepared.switches.length > 0) {
        if (!options.switchHeads) {
          const reason = `${prepared.switches[0]!.volumeId} is attached`;
          throw new StorageError('volume-in-use', { op: 'take snapshot', reason });
        }
        await options.switchHeads(prepared.switches);
      }
    } catch (error) {
      await prepared.abort();
      throw error;
    }
    return prepared.commit();
  }

  /** Steps 1 to 3. One of `commit` and `abort` must follow; until then, another snapshot of the volumes is refused. */
  prepare(requests: readonly SnapshotRequest[], group?: string): Promise<PreparedSnapshots> {
    const op = 'take snapshot';
    const volumeIds = requests.map(({ volumeId }) => volumeId);
    const ids = requests.map(({ snapshotId }) => snapshotId);
    const odd =
      requests.length === 0 ||
      new Set(volumeIds).size < volumeIds.length ||
      new Set(ids).size < ids.length ||
      !ids.every((id) => SNAPSHOT_ID.test(id)) ||
      (group !== undefined && !isGroupId(group));
    if (odd) {
      const reason = `snapshots ${ids.join(', ')} of ${volumeIds.join(', ')}`;
      return Promise.reject(new StorageError('invalid-argument', { op, reason }));
    }
    return this.pool.verb([...volumeIds, ...ids], async () => {
      for (const id of ids) {
        const found = this.pool.findSnapshot(id);
        if (!found) continue;
        if (found.state === 'pending') throw busy(op, id);
        throw new StorageError('snapshot-exists', { op, reason: `there is a snapshot ${id}` });
      }
      for (const id of volumeIds) {
        this.pool.volume(id);
        if (!this.pool.switching.has(id)) continue;
        throw busy(op, id);
      }
      for (const id of volumeIds) this.pool.switching.add(id);
      // A fold that is being finished is waited for; none is finished from now on.
      await this.pool.turns.run(['fold-finish'], async () => {});
      const releases: (() => void)[] = [() => volumeIds.forEach((id) => this.pool.switching.delete(id))];
      try {
        // One after the other: the head that is named last is the one that the switch finds.
        const made: { snapshot: SnapshotRecord; volume: VolumeManifest }[] = [];
        for (const request of requests) made.push(await this.prepareOne(request, group, releases));
        return this.preparedOf(made, releases);
      } catch (error) {
        await this.forget(ids, releases);
        throw storageErrorOf(op, this.pool.paths.directory, error);
      }
    });
  }

  /** Removes a snapshot; one that is not there is no error. The bytes that only it has go at once or in the background. */
  delete(snapshotId: string): Promise<void> {
    return this.pool.verb([snapshotId], async () => {
      const snapshot = this.pool.findSnapshot(snapshotId);
      if (!snapshot) return;
      if (snapshot.state === 'pending') throw busy('delete snapshot', snapshotId);
      await this.pool.removeSnapshot(snapshotId);
      await this.pool.step('delete-snapshot.removed');
      await this.pool.collect();
    });
  }

  private async prepareOne(
    request: SnapshotRequest,
    group: string | undefined,
    releases: (() => void)[],
  ): Promise<{ snapshot: SnapshotRecord; volume: VolumeManifest }> {
    const { pool } = this;
    const before = pool.volume(request.volumeId);
    releases.push(pool.graph.pin(before.headLayer));
    const { layer, unpin } = await pool.makeLayer(before.sizeBytes, before.headLayer);
    releases.push(unpin);
    await pool.step('snapshot.layer-made');
    const snapshot: SnapshotRecord = {
      id: request.snapshotId,
      volumeId: before.id,
      layer: before.headLayer,
      sizeBytes: before.sizeBytes,
      state: 'pending',
      group: group ?? null,
      internal: request.internal ?? false,
      description: request.description ?? '',
      createdAt: new Date().toISOString(),
    };
    await pool.writeSnapshot(snapshot);
    await pool.step('snapshot.pending-written');
    if (!pool.live.has(before.id)) await this.syncHead(before.headLayer);
    const volume = { ...before, headLayer: layer.id };
    try {
      await pool.writeVolume(volume);
    } catch (error) {
      // When it is not known which head the manifest names: written to is the old one, which is right either way as long
      // as the new one stays there, empty. So that is kept until the pool is opened next.
      if (isUncertain(error)) releases.pop();
      throw error;
    }
    pool.live.get(volume.id)?.writes.add(layer.id);
    await pool.step('snapshot.head-named');
    return { snapshot, volume };
  }

  private preparedOf(
    made: readonly { snapshot: SnapshotRecord; volume: VolumeManifest }[],
    releases: (() => void)[],
  ): PreparedSnapshots {
    const { pool } = this;
    const ids = made.map(({ snapshot }) => snapshot.id);
    const switches = made
      .filter(({ volume }) => pool.live.has(volume.id))
      .map(({ volume }) => ({ volumeId: volume.id, chain: pool.chainOf(volume) }));
    const commit = async (): Promise<SnapshotRecord[]> => {
      await pool.step('snapshot.switched');
      const completed = made.map(({ snapshot }): SnapshotRecord => ({ ...snapshot, state: 'completed' }));
      try {
        for (const snapshot of completed) {
          await pool.writeSnapshot(snapshot);
          await pool.step('snapshot.completed-one');
        }
      } catch (error) {
        await this.forget(ids, releases);
        throw error;
      }
      for (const { volume } of made) {
        const live = pool.live.get(volume.id);
        if (live) live.writes = new Set([volume.headLayer]);
      }
      for (const release of releases.splice(0)) release();
      await pool.step('snapshot.completed');
      return completed;
    };
    const abort = async (): Promise<void> => {
      await this.forget(ids, releases);
      await Promise.all(
        switches.flatMap(({ volumeId, chain }) => pool.live.get(volumeId)?.volume.chainChanged(chain) ?? []),
      );
    };
    return { switches, commit, abort };
  }

  /** Takes back what was prepared, as far as it goes; the next open does the rest. */
  private async forget(ids: readonly string[], releases: (() => void)[]): Promise<void> {
    try {
      for (const id of ids) await this.pool.removeSnapshot(id);
      for (const release of releases.splice(0)) release();
      await this.pool.collect();
    } finally {
      for (const release of releases.splice(0)) release();
    }
  }

  /** Makes durable what was written to a head that nobody serves. */
  private syncHead(layerId: string): Promise<void> {
    const { pool } = this;
    return pool.withLayer(layerId, async () => {
      const file = await pool.disk.open(pool.paths.layerFile(pool.graph.layer(layerId).file), 'r+');
      try {
        await file.sync();
      } finally {
        await file.close();
      }
    });
  }

  /** The snapshots of a request that was made before; undefined when it was not. */
  private findAll(requests: readonly SnapshotRequest[]): SnapshotRecord[] | undefined {
    const found = requests.map(({ snapshotId, volumeId }) => {
      const snapshot = this.pool.findSnapshot(snapshotId);
      return snapshot?.volumeId === volumeId && snapshot.state === 'completed' ? snapshot : undefined;
    });
    return found.every((snapshot) => snapshot !== undefined) && found.length > 0 ? found : undefined;
  }
}

const busy = (op: string, id: string): StorageError =>
  new StorageError('volume-busy', { op, reason: `a snapshot is being taken: ${id}` });
