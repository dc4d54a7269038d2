import { createConnection, type Socket } from 'node:net';
import { QemuError, QmpCommandError } from './qemu-error.js';

/** An asynchronous event of the monitor, for instance `DEVICE_DELETED`. */
export interface QmpEvent {
  event: string;
  data?: Record<string, unknown>;
}

interface Pending {
  command: string;
  resolve: (value: unknown) => void;
  reject: (reason: Error) => void;
  timer: NodeJS.Timeout;
}

interface Waiter {
  matches: (event: QmpEvent) => boolean;
  resolve: (event: QmpEvent) => void;
  reject: (reason: Error) => void;
  timer: NodeJS.Timeout;
}

/** Longest line that is read from a monitor; `query-qmp-schema`, the longest known answer, has about 200 kB. */
const maxLineLength = 16 * 1024 * 1024;

/**
 * A client of QEMU's machine protocol over a unix socket.
 *
 * A monitor serves one client at a time: a second one connects and then waits for the greeting in vain, which is
 * reported as `monitor-timeout`.
 */
export class QmpClient {
  private readonly pending = new Map<number, Pending>();
  private readonly waiters = new Set<Waiter>();
  private nextId = 1;
  private received = '';
  private greeted: (() => void) | undefined;
  private closedBy: QemuError | undefined;

  private constructor(
    private readonly socket: Socket,
    private readonly path: string,
  ) {
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => this.receive(chunk));
    socket.on('error', (error) =>
      this.fail(new QemuError('monitor-closed', error.message, { cause: error })),
    );
    socket.on('close', () =>
      this.fail(new QemuError('monitor-closed', `the monitor at ${path} closed the connection`)),
    );
  }

  /** Connects, reads the greeting and leaves the negotiation mode. */
  static async connect(path: string, { timeoutMs = 5000 }: { timeoutMs?: number } = {}): Promise<QmpClient> {
    const socket = await open(path);
    const client = new QmpClient(socket, path);
    try {
      await client.greeting(timeoutMs);
      await client.execute('qmp_capabilities', undefined, { timeoutMs });
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /**
   * Runs one command and returns its `return` value.
   *
   * Throws QmpCommandError when QEMU refuses it, QemuError when the monitor is gone or does not answer in time.
   */
  execute(
    command: string,
    args?: Record<string, unknown>,
    { timeoutMs = 30_000 }: { timeoutMs?: number } = {},
  ): Promise<unknown> {
    if (this.closedBy) return Promise.reject(this.closedBy);
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.pending.delete(id);
        reject(new QemuError('monitor-timeout', `QEMU did not answer ${command} within ${timeoutMs} ms`));
      }, timeoutMs);
      this.pending.set(id, { command, resolve, reject, timer });
      this.socket.write(`${JSON.stringify({ execute: command, ...(args && { arguments: args }), id })}\n`);
    });
  }

  /** Resolves with the next event that matches; call it before the command that causes the event. */
  waitForEvent(matches: (event: QmpEvent) => boolean, timeoutMs: number, what: string): Promise<QmpEvent> {
    if (this.closedBy) return Promise.reject(this.closedBy);
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        matches,
        resolve,
        reject,
        timer: setTimeout(() => {
          this.waiters.delete(waiter);
          reject(new QemuError('monitor-timeout', `${what} did not happen within ${timeoutMs} ms`));
        }, timeoutMs),
      };
      this.waiters.add(waiter);
    });
  }

  /** Drops the connection; commands and waits that are under way are rejected. */
  close(): void {
    this.fail(new QemuError('monitor-closed', `the connection to ${this.path} was closed`));
    this.socket.destroy();
  }

  private greeting(timeoutMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () =>
          reject(
            new QemuError(
              'monitor-timeout',
              `no QMP greeting from ${this.path} within ${timeoutMs} ms: is it a QMP socket, and is another client ` +
                'connected to it? A monitor serves one client at a time; give QEMU a second -qmp socket.',
            ),
          ),
        timeoutMs,
      );
      this.socket.once('close', () => {
        clearTimeout(timer);
        reject(
          this.closedBy ??
            new QemuError('monitor-closed', `the monitor at ${this.path} closed the connection`),
        );
      });
      this.greeted = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private receive(chunk: string): void {
    this.received += chunk;
    for (let end = this.received.indexOf('\n'); end >= 0; end = this.received.indexOf('\n')) {
      const line = this.received.slice(0, end).trim();
      this.received = this.received.slice(end + 1);
      if (line !== '') this.handle(line);
    }
    if (this.received.length > maxLineLength) this.breakOff('a line without end');
  }

  private handle(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      return this.breakOff(`not JSON: ${line.slice(0, 80)}`);
    }
    if (typeof message !== 'object' || message === null) return this.breakOff('not an object');
    if ('QMP' in message) return this.greeted?.();
    if ('event' in message && typeof message.event === 'string') return this.dispatch(message as QmpEvent);
    if ('id' in message && typeof message.id === 'number') this.answer(message.id, message);
  }

  private dispatch(event: QmpEvent): void {
    for (const waiter of this.waiters) {
      if (!waiter.matches(event)) continue;
      this.waiters.delete(waiter);
      clearTimeout(waiter.timer);
      waiter.resolve(event);
    }
  }

  private answer(id: number, message: object): void {
    const pending = this.pending.get(id);
    if (!pending) return;
    this.pending.delete(id);
    clearTimeout(pending.timer);
    if ('return' in message) return pending.resolve(message.return);
    const error = ('error' in message ? message.error : {}) as { class?: string; desc?: string };
    pending.reject(
      new QmpCommandError(pending.command, error.class ?? 'GenericError', error.desc ?? 'no reason given'),
    );
  }

  private breakOff(reason: string): void {
    this.fail(new QemuError('monitor-protocol', `${this.path} does not speak QMP (${reason})`));
    this.socket.destroy();
  }

  private fail(error: QemuError): void {
    this.closedBy ??= error;
    for (const { reject, timer } of [...this.pending.values(), ...this.waiters]) {
      clearTimeout(timer);
      reject(this.closedBy);
    }
    this.pending.clear();
    this.waiters.clear();
  }
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('connect', () => resolve(socket));
    socket.once('error', (error) =>
      reject(
        new QemuError(
          'monitor-unreachable',
          `cannot connect to ${path} (${error.message}): start QEMU with -qmp unix:${path},server=on,wait=off`,
          { cause: error },
        ),
      ),
    );
  });
}
