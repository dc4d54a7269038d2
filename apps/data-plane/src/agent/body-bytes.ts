import { AgentError } from '@cairn/agent';
import type { Request } from 'express';

/** Reads a body of bytes. Throws `invalid-argument` for one of another type, and for one that is longer than `max`. */
export async function readBytes(request: Request, max: number): Promise<Uint8Array> {
  if (!request.is('application/octet-stream')) {
    throw new AgentError('invalid-argument', 'send the bytes as application/octet-stream');
  }
  const bytes = Buffer.allocUnsafe(max);
  let length = 0;
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    const part: Buffer = chunk;
    length += part.length;
    if (length > max) break;
    part.copy(bytes, length - part.length);
  }
  if (length <= max) return bytes.subarray(0, length);
  // The rest is thrown away, so that the answer is read, and the connection can be used again.
  request.resume();
  throw new AgentError('invalid-argument', `the body has more than ${max} bytes`);
}
