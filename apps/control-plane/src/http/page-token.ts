const VERSION = 'v1';
const tokenPattern = /^v1\.(\d{1,16})$/;

/** Makes the opaque token of the page that begins after this place. */
export function encodePageToken(after: number): string {
  return Buffer.from(`${VERSION}.${after}`).toString('base64url');
}

/** The place a token names, or `undefined` for a text that is not one of our tokens. */
export function decodePageToken(token: string): number | undefined {
  const match = tokenPattern.exec(Buffer.from(token, 'base64url').toString('latin1'));
  const after = Number(match?.[1]);
  return Number.isSafeInteger(after) ? after : undefined;
}
