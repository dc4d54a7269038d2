import {
  NUM_QUEUES_MAX,
  NUM_QUEUES_MIN,
  VOLUME_SIZE_MAX,
  VOLUME_SIZE_MIN,
  VOLUME_SIZE_MULTIPLE,
  type AttachmentConnection,
  type AttachmentId,
  type NodeId,
  type PoolId,
  type SnapshotId,
  type VolumeId,
  type VolumeSource,
} from '@cairn/domain';
import type { ObjectReader } from './object-reader.js';
import { instantPattern, parsePathId, parseRequest } from './parse-request.js';

/** Body of `PUT /v1/volumes/:id`. */
export interface PutVolume {
  readonly sizeBytes: number;
  /** What it begins as; without it, as zeroes. */
  readonly source?: VolumeSource;
}

/** Body of `PUT /v1/volumes/:id/size`. */
export interface PutSize {
  readonly sizeBytes: number;
}

/** Body of `PUT /v1/volumes/:id/revert`; the generation is of this revert alone. */
export interface PutRevert {
  readonly snapshotId: SnapshotId;
  readonly generation: number;
}

/** A volume as the node has it. */
export interface AgentVolume {
  readonly id: VolumeId;
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
  readonly createdAt: string;
}

/** Body of `PUT /v1/volumes/:id/export`. */
export interface PutExport {
  readonly attachmentId: AttachmentId;
  readonly generation: number;
  readonly readOnly: boolean;
  readonly numQueues: number;
}

/** Query of `DELETE /v1/volumes/:id/export`. `force` cuts a connected front-end. */
export interface DeleteExport {
  readonly generation: number;
  readonly force: boolean;
}

/**
 * How much a guest may have: base rates, 0 for as much as there is, and bursts above them while credits last. See
 * docs/rate-limits.md.
 */
export interface ExportLimits {
  readonly iops: number;
  readonly iopsBurst: number;
  readonly iopsBurstSeconds: number;
  readonly bytesPerSecond: number;
  readonly bytesBurst: number;
  readonly bytesBurstSeconds: number;
  /** A request counts once for each started so many bytes; 0 = once. */
  readonly iopsUnitBytes: number;
}

/**
 * Body of `PUT /v1/volumes/:id/export/limits`: the limits take the place of all there were. A field that is absent is 0,
 * but for the seconds of a burst, which are 1.
 */
export interface PutExportLimits {
  readonly generation: number;
  readonly limits: Partial<ExportLimits>;
}

/** `listening` waits for a front-end; `error` serves no writes, `reason` tells why, or what a connected one waits for. */
export type AgentExportState = 'listening' | 'connected' | 'error';

/** An export as the node has it. */
export interface AgentExport {
  readonly volumeId: VolumeId;
  readonly attachmentId: AttachmentId;
  readonly generation: number;
  readonly readOnly: boolean;
  readonly state: AgentExportState;
  readonly reason?: string;
  /** Absent without any. */
  readonly limits?: ExportLimits;
  readonly connection: AttachmentConnection;
}

/** One pool of the node. */
export interface AgentPool {
  readonly id: PoolId;
  readonly directory: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly provisionedBytes: number;
  readonly volumes: number;
  /** Less is free than the node was told to warn of. */
  readonly lowSpace: boolean;
  /** What was found when the pool was opened. */
  readonly fileSystem: AgentFileSystem;
}

/** What a pool's file system can do, and what an fsync on it is worth as far as that can be seen. */
export interface AgentFileSystem {
  readonly reflink: boolean;
  /** What O_DIRECT needs of memory, and of offsets and lengths, in bytes; 0: unknown, or no O_DIRECT. */
  readonly directMemoryAlignment: number;
  readonly directOffsetAlignment: number;
  readonly fsync: 'in-memory' | 'no-barriers' | 'as-told';
}

/** The node: who it is, what it has room for, what it serves. */
export interface AgentNode {
  readonly id: NodeId;
  readonly name: string;
  readonly version: string;
  readonly pools: readonly AgentPool[];
  readonly exports: { readonly total: number; readonly connected: number; readonly failed: number };
}

export const sizeBounds = { min: VOLUME_SIZE_MIN, max: VOLUME_SIZE_MAX, multipleOf: VOLUME_SIZE_MULTIPLE };
const queueBounds = { min: NUM_QUEUES_MIN, max: NUM_QUEUES_MAX };
const limitFields = [
  'iops',
  'iopsBurst',
  'iopsBurstSeconds',
  'bytesPerSecond',
  'bytesBurst',
  'bytesBurstSeconds',
  'iopsUnitBytes',
] as const satisfies readonly (keyof ExportLimits)[];
const anyText = /^[^\0]{1,4096}$/s;
const decimalPattern = /^(0|[1-9]\d{0,15})$/;

/** Reads the `:id` of a path. Throws `invalid-argument`. */
export function parseVolumeId(text: string): VolumeId {
  return parsePathId('vol', 'volumeId', text);
}

/** Reads the body of `PUT /v1/volumes/:id`. Throws `invalid-argument` with every fault. */
export function parsePutVolume(body: unknown): PutVolume {
  return parseRequest(body, (reader) => {
    const sizeBytes = reader.integer('sizeBytes', sizeBounds);
    const source = reader.optionalObject('source', readSource);
    return { sizeBytes, ...(source === undefined ? {} : { source }) };
  });
}

/** Reads the body of `PUT /v1/volumes/:id/size`. Throws `invalid-argument` with every fault. */
export function parsePutSize(body: unknown): PutSize {
  return parseRequest(body, (reader) => ({ sizeBytes: reader.integer('sizeBytes', sizeBounds) }));
}

/** Reads the body of `PUT /v1/volumes/:id/revert`. Throws `invalid-argument` with every fault. */
export function parsePutRevert(body: unknown): PutRevert {
  return parseRequest(body, (reader) => ({
    snapshotId: reader.id('snapshotId', 'snap'),
    generation: reader.integer('generation', { min: 1 }),
  }));
}

function readSource(reader: ObjectReader): VolumeSource {
  const snapshotId = reader.optionalId('snapshotId', 'snap');
  const volumeId = reader.optionalId('volumeId', 'vol');
  if ((snapshotId === undefined) === (volumeId === undefined)) {
    reader.refuse('snapshotId', 'or volumeId must be there, and not both');
  }
  return snapshotId === undefined ? { volumeId: volumeId ?? 'vol-' } : { snapshotId };
}

/** Reads the body of `PUT /v1/volumes/:id/export`. Throws `invalid-argument` with every fault. */
export function parsePutExport(body: unknown): PutExport {
  return parseRequest(body, readPutExport);
}

/** The fields of a `PutExport`, for documents that carry one. */
export function readPutExport(reader: ObjectReader): PutExport {
  return {
    attachmentId: reader.id('attachmentId', 'att'),
    generation: reader.integer('generation', { min: 1 }),
    readOnly: reader.flag('readOnly'),
    numQueues: reader.integer('numQueues', queueBounds),
  };
}

/** Reads the body of `PUT /v1/volumes/:id/export/limits`. Throws `invalid-argument` with every fault. */
export function parsePutExportLimits(body: unknown): PutExportLimits {
  return parseRequest(body, (reader) => ({
    generation: reader.integer('generation', { min: 1 }),
    limits: reader.object('limits', readSomeLimits),
  }));
}

/** The limits of a document that has all of them. */
export function readExportLimits(reader: ObjectReader): ExportLimits {
  const of = (field: keyof ExportLimits): number => reader.integer(field, { min: 0 });
  return {
    iops: of('iops'),
    iopsBurst: of('iopsBurst'),
    iopsBurstSeconds: of('iopsBurstSeconds'),
    bytesPerSecond: of('bytesPerSecond'),
    bytesBurst: of('bytesBurst'),
    bytesBurstSeconds: of('bytesBurstSeconds'),
    iopsUnitBytes: of('iopsUnitBytes'),
  };
}

function readSomeLimits(reader: ObjectReader): Partial<ExportLimits> {
  const given = limitFields.map((field) => [field, reader.optionalInteger(field, { min: 0 })] as const);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

/** Reads the query of `DELETE /v1/volumes/:id/export`. Throws `invalid-argument` with every fault. */
export function parseDeleteExport(query: unknown): DeleteExport {
  return parseRequest(query, (reader) => {
    const digits = reader.text('generation', decimalPattern, 'a decimal integer');
    const generation = Number(digits);
    if (digits !== '' && !(Number.isSafeInteger(generation) && generation >= 1)) {
      reader.refuse('generation', `must be from 1 to ${Number.MAX_SAFE_INTEGER}`);
    }
    const force = reader.optionalText('force', /^(true|false)$/, 'true or false') === 'true';
    return { generation, force };
  });
}

/** Reads a volume that an agent answered. */
export function readAgentVolume(reader: ObjectReader): AgentVolume {
  return {
    id: reader.id('id', 'vol'),
    sizeBytes: reader.integer('sizeBytes', { min: 0 }),
    allocatedBytes: reader.integer('allocatedBytes', { min: 0 }),
    createdAt: reader.text('createdAt', instantPattern, 'an RFC 3339 instant in UTC'),
  };
}

/** Reads an export that an agent answered. */
export function readAgentExport(reader: ObjectReader): AgentExport {
  const reason = reader.optionalText('reason', anyText, 'a text');
  const limits = reader.optionalObject('limits', readExportLimits);
  return {
    volumeId: reader.id('volumeId', 'vol'),
    attachmentId: reader.id('attachmentId', 'att'),
    generation: reader.integer('generation', { min: 1 }),
    readOnly: reader.flag('readOnly'),
    state: reader.word('state', ['listening', 'connected', 'error']),
    ...(reason === undefined ? {} : { reason }),
    ...(limits === undefined ? {} : { limits }),
    connection: reader.object('connection', (inner) => ({
      type: inner.word('type', ['vhost-user-blk']),
      socketPath: inner.text('socketPath', anyText, 'a path'),
      serial: inner.text('serial', /^[\x20-\x7e]{1,20}$/, 'at most 20 printable ASCII characters'),
      numQueues: inner.integer('numQueues', queueBounds),
    })),
  };
}

/** Reads the node description that an agent answered. */
export function readAgentNode(reader: ObjectReader): AgentNode {
  const count = { min: 0 };
  return {
    id: reader.id('id', 'node'),
    name: reader.text('name', anyText, 'a text'),
    version: reader.text('version', anyText, 'a text'),
    pools: reader.list('pools', (pool) => ({
      id: pool.id('id', 'pool'),
      directory: pool.text('directory', anyText, 'a path'),
      totalBytes: pool.integer('totalBytes', count),
      freeBytes: pool.integer('freeBytes', count),
      provisionedBytes: pool.integer('provisionedBytes', count),
      volumes: pool.integer('volumes', count),
      lowSpace: pool.flag('lowSpace'),
      fileSystem: pool.object('fileSystem', (found) => ({
        reflink: found.flag('reflink'),
        directMemoryAlignment: found.integer('directMemoryAlignment', count),
        directOffsetAlignment: found.integer('directOffsetAlignment', count),
        fsync: found.word('fsync', ['in-memory', 'no-barriers', 'as-told']),
      })),
    })),
    exports: reader.object('exports', (inner) => ({
      total: inner.integer('total', count),
      connected: inner.integer('connected', count),
      failed: inner.integer('failed', count),
    })),
  };
}
