import {
  ID_DIGITS,
  parseId,
  SHA256_BASE64,
  SNAPSHOT_GROUP_MAX,
  type GroupId,
  type SnapshotId,
  type VolumeId,
} from '@cairn/domain';
import { sizeBounds } from './agent.contract.js';
import type { ObjectReader } from './object-reader.js';
import { instantPattern, parsePathId, parseRequest } from './parse-request.js';

/** Body of `PUT /v1/snapshots`: all of one point in time, and all or none. */
export interface TakeSnapshots {
  readonly snapshots: readonly { readonly snapshotId: SnapshotId; readonly volumeId: VolumeId }[];
  readonly groupId?: GroupId;
}

/** A snapshot as the node has it; `volumeId` is unset when it was written from blocks. */
export interface AgentSnapshot {
  readonly id: SnapshotId;
  readonly volumeId?: VolumeId;
  readonly sizeBytes: number;
}

/** Body of `PUT /v1/snapshots/:id/writing`. */
export interface StartWriting {
  readonly sizeBytes: number;
  /** What is not put is as in this one, else zeroes. */
  readonly parentSnapshotId?: SnapshotId;
  /** It is removed when nothing was put for so long. */
  readonly timeoutMs: number;
}

/** Body of `PUT /v1/snapshots/:id/completion`. */
export interface CompleteWriting {
  readonly changedBlocks: number;
  /** SHA-256, in Base64, of the SHA-256 of each block that was put, in the order of their indices. */
  readonly checksum?: string;
}

/** A snapshot that blocks are put into. */
export interface AgentWriting {
  readonly id: SnapshotId;
  /** How far it is, as whoever puts its blocks said last. */
  readonly percent?: number;
}

/** What a node has of snapshots. */
export interface AgentSnapshotList {
  /** Completed, or not understood. */
  readonly ids: readonly SnapshotId[];
  readonly writing: readonly AgentWriting[];
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

/** Reads the body of `PUT /v1/snapshots/:id/writing`. Throws `invalid-argument` with every fault. */
export function parseStartWriting(body: unknown): StartWriting {
  return parseRequest(body, (reader) => {
    const sizeBytes = reader.integer('sizeBytes', sizeBounds);
    const parentSnapshotId = reader.optionalId('parentSnapshotId', 'snap');
    const timeoutMs = reader.integer('timeoutMs', { min: 1 });
    return { sizeBytes, timeoutMs, ...(parentSnapshotId === undefined ? {} : { parentSnapshotId }) };
  });
}

/** Reads the body of `PUT /v1/snapshots/:id/completion`. Throws `invalid-argument` with every fault. */
export function parseCompleteWriting(body: unknown): CompleteWriting {
  return parseRequest(body, (reader) => {
    const changedBlocks = reader.integer('changedBlocks', { min: 0 });
    const checksum = reader.optionalText('checksum', SHA256_BASE64, 'a SHA-256 in Base64');
    return { changedBlocks, ...(checksum === undefined ? {} : { checksum }) };
  });
}

/** Reads a snapshot that an agent answered. */
export function readAgentSnapshot(reader: ObjectReader): AgentSnapshot {
  const volumeId = reader.optionalId('volumeId', 'vol');
  return {
    id: reader.id('id', 'snap'),
    ...(volumeId === undefined ? {} : { volumeId }),
    sizeBytes: reader.integer('sizeBytes', { min: 1 }),
  };
}

/** Reads what an agent answered of all its snapshots. */
export function readAgentSnapshotList(reader: ObjectReader): AgentSnapshotList {
  const idOf = (item: ObjectReader): SnapshotId => item.id('id', 'snap');
  return {
    ids: [...reader.list('snapshots', idOf), ...reader.list('broken', idOf)],
    writing: reader.list('writing', (item) => {
      const percent = item.optionalInteger('percent', { min: 0, max: 100 });
      return { id: idOf(item), ...(percent === undefined ? {} : { percent }) };
    }),
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

const usageId = new RegExp(`^(vol|snap)-${ID_DIGITS}$`);

/** Reads the usage that an agent answered. */
export function readAgentUsage(reader: ObjectReader): AgentUsage {
  const measuredAt = reader.optionalText('measuredAt', instantPattern, 'an RFC 3339 instant in UTC');
  const usage = reader.list('usage', (item) => {
    const id = item.text('id', usageId, 'a volume or snapshot id');
    return {
      id: parseId('vol', id) ?? parseId('snap', id) ?? ('vol-' as const),
      uniqueBytes: item.integer('uniqueBytes', { min: 0 }),
      sharedBytes: item.integer('sharedBytes', { min: 0 }),
    };
  });
  return { ...(measuredAt === undefined ? {} : { measuredAt }), usage };
}
