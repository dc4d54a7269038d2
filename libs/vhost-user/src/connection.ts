import { closeSync } from 'node:fs';
import { native } from '@cairn/native';
import { HandedStateError, type FdList, type HandedReader, type HandedValue } from './handed-state.js';
import { HEADER_BYTES, HEADER_FLAG, Message, encode } from './messages.js';
import { messageTable, type MessageRule, type RequestCode } from './message-table.js';
import { VhostUserError } from './vhost-user-error.js';

const EAGAIN = 11;
const MAX_PAYLOAD = Math.max(...Object.values(messageTable).map((rule) => rule.payload[1]));
const MAX_MESSAGE_FDS = 16;

/**
 * One front-end's socket as a stream of whole, checked messages. Owns the socket.
 *
 * Descriptors that come with a message go to whoever takes it; those of a message that is refused are closed.
 */
export class Connection {
  private readonly buffer = new Uint8Array(HEADER_BYTES + MAX_PAYLOAD);
  private readonly view = new DataView(this.buffer.buffer);
  private readonly received = new Int32Array(1 + MAX_MESSAGE_FDS);
  private filled = 0;
  private fds: number[] = [];

  constructor(readonly fd: number) {}

  /**
   * The next message with its rule; undefined when no whole one has come yet, 'closed' at the end of the stream.
   * Throws VhostUserError when what came is no message of this protocol.
   */
  next(): { message: Message; rule: MessageRule } | 'closed' | undefined {
    for (;;) {
      const want = this.wantedBytes();
      if (want === this.filled) return this.takeMessage();
      const count = native.receive(this.fd, this.buffer, this.filled, want - this.filled, this.received);
      if (count === -EAGAIN) return undefined;
      if (count < 0) throw new VhostUserError('receive-failed', { errno: -count });
      for (let index = 1; index <= this.received[0]!; index += 1) this.fds.push(this.received[index]!);
      if (this.fds.length > MAX_MESSAGE_FDS) {
        throw new VhostUserError('descriptor-count-invalid', { count: this.fds.length });
      }
      if (count === 0) {
        if (this.filled > 0) throw new VhostUserError('message-truncated', { bytes: this.filled });
        return 'closed';
      }
      this.filled += count;
    }
  }

  /** Answers a message; descriptors that go along stay the caller's. Throws VhostUserError when the front-end does not read its answers. */
  reply(code: number, payload: Uint8Array, fds: readonly number[] = []): void {
    const bytes = encode(code, HEADER_FLAG.REPLY, payload);
    const sent = native.send(this.fd, bytes, 0, bytes.length, Int32Array.from(fds), fds.length);
    if (sent !== bytes.length) throw new VhostUserError('reply-not-taken', { code, sent });
  }

  /** The socket, and the beginning of a message that has not come whole yet, for a successor. */
  state(list: FdList): Record<string, HandedValue> {
    return {
      fd: list.add(this.fd),
      received: Buffer.from(this.buffer.subarray(0, this.filled)).toString('base64'),
      receivedFds: this.fds.map((fd) => ({ fd: list.add(fd) })),
    };
  }

  /** The connection of a predecessor. Throws HandedStateError or VhostUserError. */
  static adopt(reader: HandedReader): Connection {
    const connection = new Connection(reader.fd('fd'));
    try {
      const received = Buffer.from(reader.text('received', 2 * connection.buffer.length), 'base64');
      if (received.length > connection.buffer.length) throw new HandedStateError('a message is too long');
      for (const one of reader.list('receivedFds', MAX_MESSAGE_FDS)) {
        connection.fds.push(one.fd('fd'));
        one.end();
      }
      connection.buffer.set(received);
      connection.filled = received.length;
      if (connection.filled > connection.wantedBytes()) throw new HandedStateError('a message is too long');
      reader.end();
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  close(): void {
    this.closeFds();
    closeSync(this.fd);
  }

  /** Bytes that must be in the buffer before the next step: the header, then header and payload. */
  private wantedBytes(): number {
    if (this.filled < HEADER_BYTES) return HEADER_BYTES;
    const code = this.view.getUint32(0, true);
    const flags = this.view.getUint32(4, true);
    const size = this.view.getUint32(8, true);
    if ((flags & HEADER_FLAG.VERSION_MASK) !== HEADER_FLAG.VERSION) {
      throw new VhostUserError('version-unsupported', { flags });
    }
    const rule = messageTable[code as RequestCode] as MessageRule | undefined;
    if (!rule) throw new VhostUserError('message-unknown', { code });
    if (size < rule.payload[0] || size > rule.payload[1]) {
      throw new VhostUserError('payload-size-invalid', { code, size });
    }
    return HEADER_BYTES + size;
  }

  private takeMessage(): { message: Message; rule: MessageRule } {
    const code = this.view.getUint32(0, true);
    const rule = messageTable[code as RequestCode];
    if (this.fds.length > rule.fds) {
      throw new VhostUserError('descriptor-count-invalid', { code, count: this.fds.length });
    }
    // Trusted from here: the code is known, the payload has that message's size, the descriptors are ours to close.
    const payload = this.buffer.slice(HEADER_BYTES, this.filled);
    const message = new Message(code, this.view.getUint32(4, true), payload, this.fds);
    this.fds = [];
    this.filled = 0;
    return { message, rule };
  }

  private closeFds(): void {
    for (const fd of this.fds.splice(0)) closeSync(fd);
  }
}
