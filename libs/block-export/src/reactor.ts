import { closeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { check, EFD_NONBLOCK, native } from '@cairn/native';
import type {
  AnswerMessage,
  CommandMessage,
  ExportSpec,
  ExportStatus,
  ReactorCommand,
  ReactorStart,
} from './reactor-protocol.js';

const DEFAULT_POLL_MICROS = 32;
const DEFAULT_DRAIN_MS = 30_000;

/** How often is looked for a thread that a front-end's eventfd holds; it is free again after twice this time at most. */
const INTERRUPT_EVERY_MS = 250;

export interface ReactorOptions {
  /** How long the thread looks at busy rings, without sleeping, after the last request; 0 = never. */
  pollMicroseconds?: number;
}

/**
 * A reactor thread, seen from the main thread: serves exports until it is stopped.
 *
 * Every method rejects once the thread has died; `failed` tells why. Guests notice a dead reactor as a broken
 * connection, so the process should end and be started again.
 */
export class Reactor {
  /** Resolves with the reason when the thread dies; never when it is stopped. */
  readonly failed: Promise<Error>;
  private readonly waiting = new Map<
    number,
    { resolve: (answer: AnswerMessage) => void; reject: (error: Error) => void }
  >();
  private sequence = 0;
  private dead: Error | undefined;
  private stopping = false;

  private constructor(
    private readonly worker: Worker,
    private readonly controlFd: number,
  ) {
    this.failed = new Promise((resolve) => {
      const die = (error: Error): void => {
        this.dead ??= error;
        for (const { reject } of this.waiting.values()) reject(this.dead);
        this.waiting.clear();
        if (!this.stopping) resolve(this.dead);
      };
      worker.on('error', (cause) => die(new Error(`the reactor thread died: ${String(cause)}`, { cause })));
      const interrupts = setInterval(() => native.interruptSignals(), INTERRUPT_EVERY_MS).unref();
      worker.on('exit', (code) => {
        clearInterval(interrupts);
        die(new Error(`the reactor thread has ended (exit code ${code})`));
      });
      worker.on('message', (answer: AnswerMessage) => {
        this.waiting.get(answer.sequence)?.resolve(answer);
        this.waiting.delete(answer.sequence);
      });
    });
  }

  /** Starts the thread. Rejects when the kernel has no (or too old an) io_uring. */
  static async start(options: ReactorOptions = {}): Promise<Reactor> {
    const controlFd = check('eventfd', native.eventfd(EFD_NONBLOCK));
    const workerData: ReactorStart = {
      controlFd,
      pollMicros: options.pollMicroseconds ?? DEFAULT_POLL_MICROS,
    };
    const worker = new Worker(new URL('./reactor-thread.js', import.meta.url), {
      workerData,
      name: 'reactor',
      trackUnmanagedFds: false, // descriptors come from the addon and over sockets, which Node.js does not see
    });
    const reactor = new Reactor(worker, controlFd);
    await new Promise<AnswerMessage>((resolve, reject) => reactor.waiting.set(0, { resolve, reject }));
    return reactor;
  }

  /** Serves a volume file; resolves when it listens. The same id again changes nothing. */
  async addExport(spec: ExportSpec): Promise<void> {
    await this.ask({ kind: 'add', spec });
  }

  /**
   * Stops listening, lets requests in flight complete, disconnects the front-end and flushes. An unknown id resolves.
   * Rejects after `drainTimeoutMs`; the export then goes as soon as its last request has ended.
   */
  async removeExport(id: string, options: { drainTimeoutMs?: number } = {}): Promise<void> {
    await withDeadline(this.ask({ kind: 'remove', id }), options.drainTimeoutMs, `draining export ${id}`);
  }

  /** Announces a greater size to the guest; the file must have it already. */
  async resizeExport(id: string, sizeBytes: number): Promise<void> {
    await this.ask({ kind: 'resize', id, sizeBytes });
  }

  async status(id: string): Promise<ExportStatus | undefined> {
    return (await this.statuses()).find((status) => status.id === id);
  }

  async statuses(): Promise<ExportStatus[]> {
    return (await this.ask({ kind: 'status' })).statuses ?? [];
  }

  /** Removes every export, then ends the thread. Rejects after `drainTimeoutMs` with requests still in flight. */
  async stop(options: { drainTimeoutMs?: number } = {}): Promise<void> {
    if (this.stopping) return;
    this.stopping = true;
    const exited = new Promise<void>((resolve) => this.worker.once('exit', () => resolve()));
    if (this.dead) return;
    await withDeadline(this.ask({ kind: 'stop' }), options.drainTimeoutMs, 'draining all exports');
    await exited;
    closeSync(this.controlFd);
  }

  private ask(command: ReactorCommand): Promise<AnswerMessage> {
    if (this.dead) return Promise.reject(this.dead);
    this.sequence += 1;
    const message: CommandMessage = { sequence: this.sequence, command };
    const answered = new Promise<AnswerMessage>((resolve, reject) => {
      this.waiting.set(message.sequence, { resolve, reject });
    });
    this.worker.postMessage(message);
    native.signal(this.controlFd);
    return answered.then((answer) => {
      if (answer.error !== undefined) throw new Error(answer.error);
      return answer;
    });
  }
}

const withDeadline = async <T>(work: Promise<T>, timeoutMs = DEFAULT_DRAIN_MS, what: string): Promise<T> => {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([work, deadline]);
  } finally {
    clearTimeout(timer);
  }
};
