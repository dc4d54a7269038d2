import { parseId, SNAPSHOT_GROUP_MAX, type GroupId, type SnapshotId, type VolumeId } from '@cairn/domain';
import type { ObjectReader } from './object-reader.js';
import { instantPattern, parsePathId, parseRequest } from './parse-request.js';

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

/** Whose bytes the node holds; `measuredAt` is unset before the first time. */
export interface AgentUsage {
  readonly measuredAt?: string;
  readonly usage: readonly {
    readonly id: VolumeId | SnapshotId;
    readonly uniqueBytes: number;
    readonly sharedBytes: number;
  }[];
}

/** Reads the usage that an agent answered. */
export function readAgentUsage(reader: ObjectReader): AgentUsage {
  const measuredAt = reader.optionalText('measuredAt', instantPattern, 'an RFC 3339 instant in UTC');
  const usage = reader.list('usage', (item) => {
    const id = item.text('id', /^(vol|snap)-[0-9a-f]{16}$/, 'a volume or snapshot id');
    return {
      id: parseId('vol', id) ?? parseId('snap', id) ?? ('vol-' as const),
      uniqueBytes: item.integer('uniqueBytes', { min: 0 }),
      sharedBytes: item.integer('sharedBytes', { min: 0 }),
    };
  });
  return { ...(measuredAt === undefined ? {} : { measuredAt }), usage };
}
