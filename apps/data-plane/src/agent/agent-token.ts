import { createHash, timingSafeEqual } from 'node:crypto';

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** The token that workers must show; it cannot be read back or printed. */
export class AgentToken {
  private readonly expected: Buffer;

  constructor(token: string) {
    this.expected = digest(`Bearer ${token}`);
  }

  /** Whether the Authorization header carries the token, in a time that does not depend on the header. */
  isIn(authorization: string | undefined): boolean {
    // Digests have one length whatever was sent.
    return timingSafeEqual(digest(authorization ?? ''), this.expected);
  }
}
