import { SNAPSHOT_GROUP_MAX, type GroupId, type SnapshotId, type VolumeId } from '@cairn/domain';
import type { ObjectReader } from './object-reader.js';
import { parsePathId, parseRequest } from './parse-request.js';

/** Body of `PUT /v1/snapshots`: all of one point in time, and all or none. */
export interface TakeSnapshots {
  readonly snapshots: readonly { readonly snapshotId: SnapshotId; readonly volumeId: VolumeId }[];
  readonly groupId?: GroupId;
}

/** A snapshot as the node has it. */
export interface AgentSnapshot {
  readonly id: SnapshotId;
  readonly volumeId: VolumeId;
  readonly sizeBytes: number;
}

/** Reads the `:id` of a path. Throws `invalid-argument`. */
export function parseSnapshotId(text: string): SnapshotId {
  return parsePathId('snap', 'snapshotId', text);
}

/** Reads the body of `PUT /v1/snapshots`. Throws `invalid-argument` with every fault. */
export function parseTakeSnapshots(body: unknown): TakeSnapshots {
  return parseRequest(body, (reader) => {
    const snapshots = reader.list('snapshots', (item) => ({
      snapshotId: item.id('snapshotId', 'snap'),
      volumeId: item.id('volumeId', 'vol'),
    }));
    if (snapshots.length < 1 || snapshots.length > SNAPSHOT_GROUP_MAX) {
      reader.refuse('snapshots', `must be 1 to ${SNAPSHOT_GROUP_MAX}`);
    }
    for (const field of ['snapshotId', 'volumeId'] as const) {
      const named = new Set(snapshots.map((snapshot) => snapshot[field]));
      if (named.size < snapshots.length) reader.refuse('snapshots', `must not repeat a ${field}`);
    }
    const groupId = reader.optionalId('groupId', 'grp');
    return { snapshots, ...(groupId === undefined ? {} : { groupId }) };
  });
}

/** Reads a snapshot that an agent answered. */
export function readAgentSnapshot(reader: ObjectReader): AgentSnapshot {
  return {
    id: reader.id('id', 'snap'),
    volumeId: reader.id('volumeId', 'vol'),
    sizeBytes: reader.integer('sizeBytes', { min: 1 }),
  };
}
