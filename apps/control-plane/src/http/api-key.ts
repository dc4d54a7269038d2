import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { newId, type KeyId } from '@cairn/domain';

const keyPattern = /^cairn_([0-9a-f]{16,17})_([A-Za-z0-9_-]{43})$/;
const SECRET_BYTES = 32;

/** An API key taken apart. */
export interface PresentedKey {
  id: KeyId;
  secret: string;
}

/** Makes a key: `cairn_<key id>_<secret>`. It can be shown once; only its hash is kept. */
export function newApiKey(): string {
  const id = newId('key').slice('key-'.length);
  return `cairn_${id}_${randomBytes(SECRET_BYTES).toString('base64url')}`;
}

/** The key's parts, or `undefined` for anything that is not of a key's form. */
export function parseApiKey(text: string): PresentedKey | undefined {
  const [, id, secret] = keyPattern.exec(text) ?? [];
  return id === undefined || secret === undefined ? undefined : { id: `key-${id}`, secret };
}

/** What is kept of a secret. It has 256 random bits, so a fast hash cannot be searched either. */
export function secretSha256(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}

/** Compares a presented secret with the kept hash, or with nothing, in the same time whatever the outcome. */
export function secretMatches(secret: string, kept: Buffer | undefined): boolean {
  const presented = secretSha256(secret);
  const equal = timingSafeEqual(presented, kept ?? Buffer.alloc(presented.length));
  return equal && kept !== undefined;
}

/** Compares two texts of any length in constant time. */
export function sameText(presented: string, expected: string): boolean {
  return timingSafeEqual(secretSha256(presented), secretSha256(expected));
}

/** The token of an `Authorization: Bearer` header, or `undefined`. */
export function bearerOf(authorization: string | undefined): string | undefined {
  return /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1];
}
