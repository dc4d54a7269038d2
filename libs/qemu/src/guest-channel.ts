import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { QemuError } from './qemu-error.js';

/** What a command printed in the guest, standard error included, and how it ended. */
export interface GuestResult {
  status: number;
  output: string;
}

interface Waiting {
  id: string;
  resolve(result: GuestResult): void;
  reject(error: Error): void;
}

/**
 * Runs commands in a guest, one at a time, over its second serial port.
 *
 * A line goes in, `id base64(command)`, and one comes back, `id status base64(output)`; see the agent in initramfs.
 */
export class GuestChannel {
  private received = '';
  private waiting: Waiting | undefined;
  private onReady: (() => void) | undefined;
  private ready = false;
  private nextId = 1;
  private closedBy: QemuError | undefined;
  private tail: Promise<unknown> = Promise.resolve();

  private constructor(private readonly socket: Socket) {
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => this.receive(chunk));
    socket.on('error', () => this.end());
    socket.on('close', () => this.end());
  }

  /** Connects to the socket of the serial port, which QEMU opens a moment after it starts. */
  static async connect(path: string, isRunning: () => boolean, timeoutMs: number): Promise<GuestChannel> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      try {
        return new GuestChannel(await open(path));
      } catch (error) {
        if (!isRunning()) throw new QemuError('guest-failed', 'QEMU ended at its start', { cause: error });
        if (Date.now() > deadline) {
          throw new QemuError('guest-timeout', `QEMU did not open ${path} in time`, { cause: error });
        }
        await sleep(20);
      }
    }
  }

  /** Resolves once the guest has booted and its agent answers. */
  async booted(timeoutMs: number): Promise<void> {
    if (this.ready) return;
    await this.withDeadline<undefined>(timeoutMs, 'the guest did not boot', (resolve) => {
      this.onReady = () => resolve(undefined);
    });
  }

  /** Runs a shell command and returns its output and status; commands given at once run one after the other. */
  run(command: string, timeoutMs: number): Promise<GuestResult> {
    const result = this.tail.then(() => this.runNow(command, timeoutMs));
    this.tail = result.catch(() => undefined);
    return result;
  }

  /** Drops the connection. */
  close(): void {
    this.socket.destroy();
    this.end();
  }

  private runNow(command: string, timeoutMs: number): Promise<GuestResult> {
    const id = String(this.nextId++);
    return this.withDeadline<GuestResult>(timeoutMs, `no answer to "${command}"`, (resolve, reject) => {
      this.waiting = { id, resolve, reject };
      this.socket.write(`${id} ${Buffer.from(command).toString('base64')}\n`);
    }).finally(() => {
      this.waiting = undefined;
    });
  }

  private withDeadline<T>(
    timeoutMs: number,
    what: string,
    start: (resolve: (value: T | PromiseLike<T>) => void, reject: (error: Error) => void) => void,
  ): Promise<T> {
    if (this.closedBy) return Promise.reject(this.closedBy);
    return new Promise<T>((resolve, reject) => {
      const closed = () => reject(new QemuError('guest-failed', `the guest ended: ${what}`));
      const timer = setTimeout(
        () => reject(new QemuError('guest-timeout', `${what} within ${timeoutMs} ms`)),
        timeoutMs,
      );
      this.socket.once('close', closed);
      const settle =
        <A>(finish: (value: A) => void) =>
        (value: A) => {
          clearTimeout(timer);
          this.socket.off('close', closed);
          finish(value);
        };
      start(settle(resolve), settle(reject));
    });
  }

  private receive(chunk: string): void {
    this.received += chunk;
    for (let end = this.received.indexOf('\n'); end >= 0; end = this.received.indexOf('\n')) {
      const line = this.received.slice(0, end).trim();
      this.received = this.received.slice(end + 1);
      this.handle(line);
    }
  }

  private handle(line: string): void {
    if (line === 'ready') {
      this.ready = true;
      this.onReady?.();
      return;
    }
    const [id, status, output = ''] = line.split(' ');
    // An answer to a command that was given up is dropped here.
    if (id !== this.waiting?.id) return;
    this.waiting?.resolve({ status: Number(status), output: Buffer.from(output, 'base64').toString('utf8') });
  }

  private end(): void {
    this.closedBy ??= new QemuError('guest-failed', 'the guest has ended');
  }
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}
