import { AgentError } from '@cairn/agent';
import type { Request } from 'express';

/** The part of a request that is used. */
export type BytesRequest = Pick<Request, 'is' | 'iterator' | 'resume' | 'destroy'>;

/** Whoever sends for longer holds a place that others wait for. */
const withinMs = 30_000;

/**
 * Reads a body of bytes. Throws `invalid-argument` for one of another type, for one that is longer than `max`, and for
 * one that has not come after `timeoutMs`; then its connection is ended.
 */
export async function readBytes(
  request: BytesRequest,
  max: number,
  timeoutMs = withinMs,
): Promise<Uint8Array> {
  if (!request.is('application/octet-stream')) {
    throw new AgentError('invalid-argument', 'send the bytes as application/octet-stream');
  }
  const bytes = Buffer.allocUnsafe(max);
  let length = 0;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    request.destroy();
  }, timeoutMs);
  try {
    length = await fill(request, bytes);
  } catch (error) {
    if (late) throw new AgentError('invalid-argument', `the body did not come within ${timeoutMs / 1000} s`);
    throw error;
  } finally {
    clearTimeout(timer);
  }
  if (length <= max) return bytes.subarray(0, length);
  // The rest is thrown away, so that the answer is read, and the connection can be used again.
  request.resume();
  throw new AgentError('invalid-argument', `the body has more than ${max} bytes`);
}

/** Fills `bytes` from a body and returns their number; more than there is room for when the body has more. */
async function fill(request: BytesRequest, bytes: Buffer): Promise<number> {
  let length = 0;
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    const part: Buffer = chunk;
    length += part.length;
    if (length > bytes.length) break;
    part.copy(bytes, length - part.length);
  }
  return length;
}
