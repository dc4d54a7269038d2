import { createHash } from 'node:crypto';
import { StorageError } from './storage-error.js';

// Whatever is written down of a pool is JSON with a version and a checksum over its fields. It is believed only when
// all of it is right: what is torn, edited by hand or of a later version is refused with the reason, never guessed.

/** The fields of one kind of manifest, in the order in which they are written. */
export interface ManifestShape {
  version: number;
  fields: readonly string[];
}

/** A reason not to believe a manifest. */
export class Refusal extends Error {}

/** The text of a manifest. */
export function sealManifest(shape: ManifestShape, fields: Readonly<Record<string, unknown>>): string {
  const body: Record<string, unknown> = { version: shape.version };
  for (const name of shape.fields) body[name] = fields[name];
  return `${JSON.stringify({ ...body, checksum: checksumOf(body) }, undefined, 2)}\n`;
}

/** The fields of a manifest whose checksum is right. Throws Refusal. */
export function unsealManifest(
  text: string,
  shapes: readonly ManifestShape[],
): { version: number; fields: Record<string, unknown> } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refusal('not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Refusal('not an object');
  const all = value as Record<string, unknown>;
  const shape = shapes.find(({ version }) => version === all.version);
  if (!shape) {
    const known = shapes.map(({ version }) => version).join(' and ');
    throw new Refusal(`version ${JSON.stringify(all.version)}, known is ${known}`);
  }
  const expected = ['version', ...shape.fields, 'checksum'];
  const keys = Object.keys(all);
  const odd = keys.find((key) => !expected.includes(key)) ?? expected.find((key) => !keys.includes(key));
  if (odd !== undefined) throw new Refusal(`field '${odd}' is unknown or missing`);
  const { checksum, ...body } = all;
  if (checksum !== checksumOf(body)) throw new Refusal('the checksum does not match');
  return { version: shape.version, fields: body };
}

/** The StorageError of a manifest that is refused. */
export const manifestRefused = (path: string, reason: string): StorageError =>
  new StorageError('manifest-corrupt', {
    op: 'read manifest',
    path,
    reason,
    remedy: 'Put back the manifest from a backup; the layers were left alone',
  });

/** SHA-256 over the fields, in the order in which they are written. */
const checksumOf = (body: object): string => createHash('sha256').update(JSON.stringify(body)).digest('hex');
