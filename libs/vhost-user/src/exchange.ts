import { closeSync } from 'node:fs';
import type { FrontEnd } from './front-end.js';
import type { MessageRule } from './message-table.js';
import { HEADER_FLAG, type Message, PROTOCOL_FEATURE, u64Payload } from './messages.js';
import { VhostUserError } from './vhost-user-error.js';

/** One message and its answer. Owns the message's descriptors but those that a verb keeps. */
export class Exchange {
  private readonly owned: Set<number>;

  constructor(
    private readonly frontEnd: FrontEnd,
    readonly message: Message,
    private readonly rule: MessageRule,
  ) {
    this.owned = new Set(message.fds);
  }

  /**
   * Runs the message's verb, and closes the descriptors that it has not kept. A message that is refused is answered
   * before the error goes on, where it has no answer of its own.
   */
  run(verb: () => void): void {
    const { needs, replies } = this.rule;
    try {
      if (needs !== undefined && !this.frontEnd.speaks(needs)) {
        throw new VhostUserError('message-not-negotiated', { code: this.message.code });
      }
      verb();
    } catch (error) {
      if (error instanceof VhostUserError && !replies) this.acknowledge(1);
      throw error;
    } finally {
      for (const fd of this.owned) closeSync(fd);
    }
  }

  /** The one descriptor of this message, still ours to close. Throws VhostUserError when there is none. */
  get onlyFd(): number {
    const { code, fds } = this.message;
    const [fd] = fds;
    if (fd === undefined) throw new VhostUserError('descriptor-count-invalid', { code, count: 0 });
    return fd;
  }

  /** Hands a descriptor of this message to the caller, who closes it. */
  keep(fd: number): number {
    this.owned.delete(fd);
    return fd;
  }

  /** `keep` of all descriptors. */
  keepAll(): number[] {
    return this.message.fds.map((fd) => this.keep(fd));
  }

  /** `keep` of the one descriptor; closes the one that it takes the place of. */
  keepInsteadOf(before: number | undefined): number {
    const fd = this.keep(this.onlyFd);
    closeIfThere(before);
    return fd;
  }

  /** Answers; descriptors that go along stay the caller's. Throws VhostUserError when the front-end does not read. */
  reply(payload: Uint8Array, fds: readonly number[] = []): void {
    this.frontEnd.connection.reply(this.message.code, payload, fds);
  }

  /** Answers a message that has no answer of its own, when the front-end asked for one (REPLY_ACK); 0 = done. */
  acknowledge(result = 0): void {
    const wanted = (this.message.flags & HEADER_FLAG.NEED_REPLY) !== 0;
    if (wanted && this.frontEnd.speaks(PROTOCOL_FEATURE.REPLY_ACK)) this.reply(u64Payload(result));
  }
}

/** Closes a descriptor that may not be there. */
export const closeIfThere = (fd: number | undefined): void => {
  if (fd !== undefined) closeSync(fd);
};
