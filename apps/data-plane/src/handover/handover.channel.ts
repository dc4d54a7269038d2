import type { Socket } from 'node:net';
import type { FdSocket } from '@cairn/block-export';
import { readMessage, type HandoverMessage } from './handover.messages.js';
import { OtherProcess } from './process-end.js';

/** A message with the descriptors that came along; the reader owns them. */
export interface Received {
  readonly message: HandoverMessage;
  readonly fds: number[];
}

/** A state of 256 rings and 64 regions has about 60 kB. */
const maxLineBytes = 1024 * 1024;

/**
 * One JSON object a line between two data planes; descriptors go beside them, ahead of the line that counts them.
 *
 * Nobody who lives hangs up without saying so before: the end of the stream tells that the other process is dying. Its
 * end is told when it is dead, and with it everything that it had open and in flight.
 */
export class HandoverChannel {
  /** The way for descriptors, which is there as soon as some are sent. */
  private fdSocket: FdSocket | undefined;
  private text = '';
  private readonly lines: string[] = [];
  private ended = false;
  private peer: OtherProcess | undefined;
  private wake: () => void = () => undefined;

  /** `openFdSocket` is called once, when descriptors are sent or have come first. */
  constructor(
    private readonly socket: Socket,
    private readonly openFdSocket: () => FdSocket,
  ) {
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => this.hear(chunk));
    socket.on('error', () => undefined); // 'close' follows
    socket.on('close', () => {
      this.ended = true;
      this.wake();
    });
  }

  send(message: HandoverMessage, fds: readonly number[] = []): void {
    if (fds.length > 0) this.fds.send(fds);
    this.socket.write(`${JSON.stringify({ ...message, fds: fds.length })}\n`);
  }

  /** Says which process the other one is. Before that, its end is told as soon as the stream ends. */
  async belongsTo(pid: number): Promise<void> {
    this.peer = await OtherProcess.of(pid);
  }

  /** The next message; undefined when the other process is dead. Rejects when nothing comes in time, or no message. */
  async next(timeoutMs: number): Promise<Received | undefined> {
    const deadline = AbortSignal.timeout(timeoutMs);
    deadline.addEventListener('abort', () => this.wake(), { once: true });
    for (;;) {
      const line = this.lines.shift();
      if (line !== undefined) return this.parse(line);
      if (this.ended) {
        await this.peer?.ended();
        return undefined;
      }
      if (deadline.aborted) throw new Error(`the other process has said nothing for ${timeoutMs} ms`);
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }

  /** Resolves when the other process is dead. */
  async gone(): Promise<void> {
    while (!this.ended) await new Promise<void>((resolve) => (this.wake = resolve));
    await this.peer?.ended();
  }

  close(): void {
    this.fdSocket?.close();
    this.fdSocket = undefined;
    this.socket.destroy();
  }

  private get fds(): FdSocket {
    return (this.fdSocket ??= this.openFdSocket());
  }

  private hear(chunk: string): void {
    this.text += chunk;
    for (let end = this.text.indexOf('\n'); end >= 0; end = this.text.indexOf('\n')) {
      this.lines.push(this.text.slice(0, end));
      this.text = this.text.slice(end + 1);
    }
    if (this.text.length > maxLineBytes) this.lines.push(this.text);
    this.wake();
  }

  private parse(line: string): Received {
    const message = JSON.parse(line) as unknown;
    const count =
      typeof message === 'object' && message !== null && 'fds' in message ? message.fds : undefined;
    if (typeof count !== 'number' || !Number.isSafeInteger(count) || count < 0)
      throw new Error('what came is no message');
    const read = readMessage(message);
    return { message: read, fds: count > 0 ? this.fds.take(count) : [] };
  }
}
