import { randomBytes } from 'node:crypto';

/** What an id may name; the prefix is part of the id, so a volume id can never pass for a node id. */
export const idPrefixes = ['vol', 'att', 'op', 'node', 'proj', 'key', 'snap', 'grp', 'pool', 'req'] as const;
export type IdPrefix = (typeof idPrefixes)[number];

export type Id<P extends IdPrefix> = `${P}-${string}`;
export type VolumeId = Id<'vol'>;
export type AttachmentId = Id<'att'>;
export type OperationId = Id<'op'>;
export type NodeId = Id<'node'>;
export type ProjectId = Id<'proj'>;
export type KeyId = Id<'key'>;
export type SnapshotId = Id<'snap'>;
export type GroupId = Id<'grp'>;
export type PoolId = Id<'pool'>;
export type RequestId = Id<'req'>;

const HEX_DIGITS = 17;
/** What follows the prefix, for a pattern: 17 hex digits, or the 16 of ids from before. */
export const ID_DIGITS = '[0-9a-f]{16,17}';
/** What is said of a text that is no id. */
export const idRule = 'and 17 (or, of an older one, 16) lower-case hex digits';
const idPattern = new RegExp(`^(${idPrefixes.join('|')})-${ID_DIGITS}$`);
/** virtio 1.2 §5.2.6.1: VIRTIO_BLK_ID_BYTES. */
const SERIAL_BYTES = 20;

/** Makes a fresh id: the prefix and 17 random hex digits, as EC2's ids have. */
export function newId<P extends IdPrefix>(prefix: P): Id<P> {
  const digits = randomBytes(Math.ceil(HEX_DIGITS / 2)).toString('hex');
  return `${prefix}-${digits.slice(0, HEX_DIGITS)}`;
}

/**
 * The serial that a guest sees of a volume's disk: its id, without the dash where that has 17 digits, as the 20 bytes of
 * a virtio-blk serial do not hold it (virtio 1.2 §5.2.6.1). EC2's serials leave it out, too.
 */
export function serialOf(volumeId: string): string {
  return volumeId.length <= SERIAL_BYTES ? volumeId : volumeId.replace('-', '');
}

/** True when the text is an id of this kind. */
export function isId<P extends IdPrefix>(prefix: P, text: unknown): text is Id<P> {
  return typeof text === 'string' && text.startsWith(`${prefix}-`) && idPattern.test(text);
}

/** The text as an id of this kind, or `undefined` when it cannot be one (which a caller answers like an unknown id). */
export function parseId<P extends IdPrefix>(prefix: P, text: unknown): Id<P> | undefined {
  return isId(prefix, text) ? text : undefined;
}
