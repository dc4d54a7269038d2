import { randomBytes } from 'node:crypto';
import { BLOCK_BYTES } from './layer-format.js';
import { type ManifestShape, Refusal, sealManifest, unsealManifest } from './manifest.js';

// 17 digits; older pools have ids of 16.
export const VOLUME_ID = /^vol-[0-9a-f]{16,17}$/;
export const LAYER_ID = /^lay-[0-9a-f]{16,17}$/;
export const SNAPSHOT_ID = /^snap-[0-9a-f]{16,17}$/;
export const POOL_ID = /^pool-[0-9a-f]{16,17}$/;
export const LAYER_FILE = /^lay-[0-9a-f]{16,17}\.img$/;
const ID_DIGITS = 17;
const GROUP_ID = /^[\w-]{1,64}$/;
const SECTOR_BYTES = 512;

/** A new id of one of these kinds. */
export const makeId = (kind: 'lay' | 'snap' | 'pool'): string =>
  `${kind}-${randomBytes(9).toString('hex').slice(0, ID_DIGITS)}`;

/** One layer: a sparse file over its parent. */
export interface LayerRecord {
  id: string;
  /** The file's name; another layer's when that layer was folded into this one. */
  file: string;
  parent: string | null;
  /** Blocks from here on are not in the layer. */
  sizeBytes: number;
  /** Null: no zero map, as the layer was made without a parent. */
  zeroMapOffsetBytes: number | null;
  /** ISO 8601, UTC. */
  createdAt: string;
}

/** One volume: a name for a head layer. */
export interface VolumeManifest {
  id: string;
  headLayer: string;
  sizeBytes: number;
  /** ISO 8601, UTC. */
  createdAt: string;
}

/**
 * `pending`: the head was not switched yet. `writing`: blocks are put into it from outside. `completed`: it never
 * changes again.
 */
export type SnapshotState = 'pending' | 'writing' | 'completed';

/** One snapshot: a name for a layer that nobody writes to any more. */
export interface SnapshotRecord {
  id: string;
  /** Null when it was written from blocks. */
  volumeId: string | null;
  layer: string;
  sizeBytes: number;
  state: SnapshotState;
  /** What was taken at the same moment has the same group. */
  group: string | null;
  /** Made for another verb, and removed by it, or when the pool is opened next. */
  internal: boolean;
  description: string;
  /** ISO 8601, UTC. */
  createdAt: string;
  /** While it is `writing`: it is cancelled when nothing was put for so long. */
  timeoutMs?: number;
}

const LAYER_SHAPE: ManifestShape = {
  version: 1,
  fields: ['id', 'file', 'parent', 'sizeBytes', 'zeroMapOffsetBytes', 'createdAt'],
};
/** Of pools from before there were snapshots: one layer a volume, without a manifest of its own. */
const FIRST_VOLUME_SHAPE: ManifestShape = {
  version: 1,
  fields: ['volumeId', 'sizeBytes', 'createdAt', 'layers'],
};
const VOLUME_SHAPE: ManifestShape = { version: 2, fields: ['id', 'headLayer', 'sizeBytes', 'createdAt'] };
const SNAPSHOT_SHAPE: ManifestShape = {
  version: 1,
  fields: ['id', 'volumeId', 'layer', 'sizeBytes', 'state', 'group', 'internal', 'description', 'createdAt'],
};
/** Of one that is being written from blocks. */
const WRITING_SHAPE: ManifestShape = { version: 2, fields: [...SNAPSHOT_SHAPE.fields, 'timeoutMs'] };

export const sealLayer = (layer: LayerRecord): string => sealManifest(LAYER_SHAPE, { ...layer });
export const sealVolume = (volume: VolumeManifest): string => sealManifest(VOLUME_SHAPE, { ...volume });
export const sealSnapshot = (snapshot: SnapshotRecord): string =>
  sealManifest(snapshot.timeoutMs === undefined ? SNAPSHOT_SHAPE : WRITING_SHAPE, { ...snapshot });

/** Throws Refusal. */
export function unsealLayer(text: string, id: string): LayerRecord {
  const { fields } = unsealManifest(text, [LAYER_SHAPE]);
  const { file, parent, zeroMapOffsetBytes } = fields;
  if (fields.id !== id) throw new Refusal(`it is of layer ${JSON.stringify(fields.id)}`);
  if (!matches(file, LAYER_FILE)) throw new Refusal('file is no name of a layer file');
  if (parent !== null && !matches(parent, LAYER_ID)) throw new Refusal('parent is no layer id');
  if (parent === id) throw new Refusal('it is its own parent');
  if (
    zeroMapOffsetBytes !== null &&
    !(Number.isSafeInteger(zeroMapOffsetBytes) && Number(zeroMapOffsetBytes) % BLOCK_BYTES === 0)
  )
    throw new Refusal('zeroMapOffsetBytes is no offset');
  const sizeBytes = sizeOf(fields);
  const zeroMap = zeroMapOffsetBytes as number | null;
  if (zeroMap !== null && zeroMap < sizeBytes) throw new Refusal('the zero map lies among the blocks');
  if (parent !== null && zeroMap === null) throw new Refusal('a layer with a parent needs a zero map');
  return { id, file, parent, sizeBytes, zeroMapOffsetBytes: zeroMap, createdAt: timeOf(fields) };
}

/** Throws Refusal. `upgraded`: it is of the first version, and its layer has no manifest yet. */
export function unsealVolume(text: string, id: string): { volume: VolumeManifest; upgraded: boolean } {
  const { version, fields } = unsealManifest(text, [FIRST_VOLUME_SHAPE, VOLUME_SHAPE]);
  const upgraded = version === FIRST_VOLUME_SHAPE.version;
  const named = upgraded ? fields.volumeId : fields.id;
  if (named !== id) throw new Refusal(`it is of volume ${JSON.stringify(named)}`);
  const { layers } = fields;
  if (upgraded && !(Array.isArray(layers) && layers.length === 1))
    throw new Refusal('layers are not one layer');
  const headLayer: unknown = upgraded ? (layers as unknown[])[0] : fields.headLayer;
  if (!matches(headLayer, LAYER_ID)) throw new Refusal('the head is no layer id');
  return { volume: { id, headLayer, sizeBytes: sizeOf(fields), createdAt: timeOf(fields) }, upgraded };
}

/** Throws Refusal. */
export function unsealSnapshot(text: string, id: string): SnapshotRecord {
  const { fields } = unsealManifest(text, [SNAPSHOT_SHAPE, WRITING_SHAPE]);
  const { volumeId, layer, state, group, internal, description, timeoutMs } = fields;
  if (fields.id !== id) throw new Refusal(`it is of snapshot ${JSON.stringify(fields.id)}`);
  if (volumeId !== null && !matches(volumeId, VOLUME_ID)) throw new Refusal('volumeId is no volume id');
  if (!matches(layer, LAYER_ID)) throw new Refusal('layer is no layer id');
  if (state !== 'pending' && state !== 'writing' && state !== 'completed')
    throw new Refusal('state is no state');
  if (group !== null && !matches(group, GROUP_ID)) throw new Refusal('group is no group id');
  if (typeof internal !== 'boolean') throw new Refusal('internal is neither true nor false');
  if (typeof description !== 'string') throw new Refusal('description is no text');
  if (timeoutMs !== undefined && !(typeof timeoutMs === 'number' && timeoutMs > 0))
    throw new Refusal('timeoutMs is no time');
  return {
    id,
    volumeId,
    layer,
    sizeBytes: sizeOf(fields),
    state,
    group,
    internal,
    description,
    createdAt: timeOf(fields),
    ...(timeoutMs !== undefined && { timeoutMs }),
  };
}

/** May this be the id of a group? */
export const isGroupId = (group: string): boolean => GROUP_ID.test(group);

const matches = (value: unknown, pattern: RegExp): value is string =>
  typeof value === 'string' && pattern.test(value);

const sizeOf = ({ sizeBytes }: Record<string, unknown>): number => {
  if (
    typeof sizeBytes !== 'number' ||
    !Number.isSafeInteger(sizeBytes) ||
    sizeBytes <= 0 ||
    sizeBytes % SECTOR_BYTES
  )
    throw new Refusal('sizeBytes is no size');
  return sizeBytes;
};

const timeOf = ({ createdAt }: Record<string, unknown>): string => {
  if (typeof createdAt !== 'string' || Number.isNaN(Date.parse(createdAt)))
    throw new Refusal('createdAt is no time');
  return createdAt;
};
