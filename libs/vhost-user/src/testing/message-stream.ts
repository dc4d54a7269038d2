import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { check, native } from '@cairn/native';
import { pollUntil } from './poll.js';
import { FLAG } from './vhost-user-numbers.js';

/** A message as it came off the wire. */
export interface ReceivedMessage {
  code: number;
  flags: number;
  payload: Buffer;
  /** They belong to the receiver. */
  fds: number[];
}

/** The other side closed the connection. */
export class Disconnected extends Error {
  override readonly name = 'Disconnected';
}

const HEADER_BYTES = 12;
const MAX_FDS = 64;
const { EAGAIN, EPIPE, ECONNRESET } = constants.errno;

/** vhost-user messages over a connected unix socket, whichever side it is. Owns the socket. */
export class MessageStream {
  private pending = Buffer.alloc(0);
  private readonly fds: number[] = [];
  private readonly chunk = new Uint8Array(65_536);
  private readonly incoming = new Int32Array(1 + MAX_FDS);
  private ended = false;
  private open = true;

  constructor(readonly fd: number) {
    check('setNonblocking', native.setNonblocking(fd, 1));
  }

  /** Sends bytes as they are, with descriptors; whatever does not fit into the socket at once throws. Disconnected when the other side is gone. */
  sendBytes(bytes: Uint8Array, fds: readonly number[] = []): void {
    const sent = native.send(this.fd, bytes, 0, bytes.length, Int32Array.from(fds), fds.length);
    if (sent === -EPIPE || sent === -ECONNRESET) throw new Disconnected('the back-end closed the connection');
    if (check('send', sent) !== bytes.length)
      throw new Error(`only ${sent} of ${bytes.length} bytes were sent`);
  }

  /** Sends a message; `flags` and `sizeBytes` default to the right ones. */
  send(
    code: number,
    payload: Uint8Array = new Uint8Array(),
    options: { fds?: readonly number[]; flags?: number; sizeBytes?: number } = {},
  ): void {
    const message = Buffer.alloc(HEADER_BYTES + payload.length);
    message.writeUInt32LE(code, 0);
    message.writeUInt32LE((options.flags ?? FLAG.VERSION) >>> 0, 4);
    message.writeUInt32LE((options.sizeBytes ?? payload.length) >>> 0, 8);
    message.set(payload, HEADER_BYTES);
    this.sendBytes(message, options.fds);
  }

  /** The next message if it is there in full. Throws Disconnected at the end of the stream. */
  poll(): ReceivedMessage | undefined {
    this.fill();
    if (this.pending.length >= HEADER_BYTES) {
      const end = HEADER_BYTES + this.pending.readUInt32LE(8);
      if (this.pending.length >= end) {
        const message = {
          code: this.pending.readUInt32LE(0),
          flags: this.pending.readUInt32LE(4),
          payload: Buffer.from(this.pending.subarray(HEADER_BYTES, end)),
          fds: this.fds.splice(0),
        };
        this.pending = this.pending.subarray(end);
        return message;
      }
    }
    if (this.ended) throw new Disconnected('the back-end closed the connection');
    return undefined;
  }

  /** Waits for the next message. Throws TimedOut or Disconnected. */
  receive(what: string, timeoutMs: number): Promise<ReceivedMessage> {
    return pollUntil(what, () => this.poll(), { timeoutMs, fd: () => this.fd });
  }

  /** Whether the other side has closed, as far as is known without waiting. */
  isClosed(): boolean {
    if (this.open) this.fill();
    return this.ended;
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    this.ended = true;
    closeSync(this.fd);
    for (const fd of this.fds.splice(0)) closeSync(fd);
  }

  private fill(): void {
    while (!this.ended) {
      const got = native.receive(this.fd, this.chunk, 0, this.chunk.length, this.incoming);
      if (got === -EAGAIN) return;
      if (got === 0 || got === -ECONNRESET) {
        this.ended = true;
        return;
      }
      check('receive', got);
      for (let i = 1; i <= this.incoming[0]!; i++) this.fds.push(this.incoming[i]!);
      this.pending = Buffer.concat([this.pending, this.chunk.subarray(0, got)]);
    }
  }
}
