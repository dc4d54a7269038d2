import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { writeFileAtomic } from './atomic-file.js';
import { StorageError, storageErrorOf } from './storage-error.js';

// A volume's manifest names the layers it is made of, head first. It is replaced atomically, and believed only when
// its checksum and every field are right: a manifest that is torn, edited by hand or of a later version is refused.

const VERSION = 1;
const SECTOR_BYTES = 512;

export const VOLUME_ID = /^vol-[0-9a-f]{16}$/;
export const LAYER_ID = /^lay-[0-9a-f]{16}$/;

/** What is written down of a volume. */
export interface Manifest {
  volumeId: string;
  sizeBytes: number;
  /** ISO 8601, UTC. */
  createdAt: string;
  /** Layer ids, head first. */
  layers: string[];
}

const FIELDS: readonly string[] = ['version', 'volumeId', 'sizeBytes', 'createdAt', 'layers', 'checksum'];

/** Writes a manifest, durably. Rejects with StorageError; then the one before holds, or the new one, not yet durable. */
export async function writeManifest(path: string, manifest: Manifest): Promise<void> {
  const { volumeId, sizeBytes, createdAt, layers } = manifest;
  const body = { version: VERSION, volumeId, sizeBytes, createdAt, layers };
  const text = `${JSON.stringify({ ...body, checksum: checksumOf(body) }, undefined, 2)}\n`;
  try {
    await writeFileAtomic(path, text);
  } catch (error) {
    throw storageErrorOf('write manifest', path, error);
  }
}

/** Reads and checks a manifest. Rejects with `manifest-corrupt` and the reason when anything in it is not right. */
export async function readManifest(path: string, volumeId: string): Promise<Manifest> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw storageErrorOf('read manifest', path, error);
  }
  const refuse = (reason: string): StorageError =>
    new StorageError('manifest-corrupt', {
      op: 'read manifest',
      path,
      reason,
      remedy: 'Put back the manifest from a backup; the layers were left alone',
    });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw refuse('not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refuse('not an object');
  const fields = value as Record<string, unknown>;
  if (fields.version !== VERSION)
    throw refuse(`version ${JSON.stringify(fields.version)}, known is ${VERSION}`);
  const keys = Object.keys(fields);
  const odd = keys.find((key) => !FIELDS.includes(key)) ?? FIELDS.find((key) => !keys.includes(key));
  if (odd !== undefined) throw refuse(`field '${odd}' is unknown or missing`);
  const { checksum, ...body } = fields;
  if (checksum !== checksumOf(body)) throw refuse('the checksum does not match');
  const { sizeBytes, createdAt, layers } = body;
  if (body.volumeId !== volumeId) throw refuse(`it is of volume ${JSON.stringify(body.volumeId)}`);
  if (
    typeof sizeBytes !== 'number' ||
    !Number.isSafeInteger(sizeBytes) ||
    sizeBytes <= 0 ||
    sizeBytes % SECTOR_BYTES
  ) {
    throw refuse('sizeBytes is no size');
  }
  if (typeof createdAt !== 'string' || Number.isNaN(Date.parse(createdAt)))
    throw refuse('createdAt is no time');
  if (
    !Array.isArray(layers) ||
    !layers.every((id): id is string => typeof id === 'string' && LAYER_ID.test(id))
  ) {
    throw refuse('layers are no layer ids');
  }
  // One layer is what this version writes; a longer chain is another version's, and not understood.
  if (layers.length !== 1) throw refuse(`${layers.length} layers, known is 1`);
  // Trusted from here.
  return { volumeId, sizeBytes, createdAt, layers };
}

/** SHA-256 over the fields, in the order in which they are written. */
const checksumOf = (body: object): string => createHash('sha256').update(JSON.stringify(body)).digest('hex');
