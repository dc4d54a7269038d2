import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { type BytesRequest, readBytes } from './body-bytes.js';

/** A request whose body a test writes. */
const requestOf = (body: PassThrough): BytesRequest => ({
  is: () => 'application/octet-stream',
  iterator: (options) => body.iterator(options),
  resume: () => Object.assign(body.resume()),
  destroy: (error) => Object.assign(body.destroy(error)),
});

describe('a body of bytes', () => {
  it('is read to its end', async () => {
    const body = new PassThrough();
    const read = readBytes(requestOf(body), 8);
    body.write(Uint8Array.of(1, 2));
    body.end(Uint8Array.of(3));
    expect([...(await read)]).toEqual([1, 2, 3]);
  });

  it('is given up when it does not come in time', async () => {
    const body = new PassThrough();
    const read = readBytes(requestOf(body), 8, 20);
    body.write(Uint8Array.of(1, 2));
    await expect(read).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(body.destroyed).toBe(true);
  });

  it('fails as its connection does', async () => {
    const body = new PassThrough();
    const read = readBytes(requestOf(body), 8);
    body.destroy(new Error('reset'));
    await expect(read).rejects.toThrow('reset');
  });
});
