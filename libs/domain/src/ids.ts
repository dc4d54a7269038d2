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

const HEX_DIGITS = 16;
const idPattern = new RegExp(`^(${idPrefixes.join('|')})-[0-9a-f]{${HEX_DIGITS}}$`);

/**
 * Makes a fresh id: the prefix and 16 random hex digits.
 *
 * A volume id is therefore exactly 20 bytes, the length of a virtio-blk serial (virtio 1.2 §5.2.6.1),
 * so the serial a guest sees is the volume id itself.
 */
export function newId<P extends IdPrefix>(prefix: P): Id<P> {
  return `${prefix}-${randomBytes(HEX_DIGITS / 2).toString('hex')}`;
}

/** True when the text is an id of this kind. */
export function isId<P extends IdPrefix>(prefix: P, text: unknown): text is Id<P> {
  return typeof text === 'string' && text.startsWith(`${prefix}-`) && idPattern.test(text);
}

/** The text as an id of this kind, or `undefined` when it cannot be one (which a caller answers like an unknown id). */
export function parseId<P extends IdPrefix>(prefix: P, text: unknown): Id<P> | undefined {
  return isId(prefix, text) ? text : undefined;
}
