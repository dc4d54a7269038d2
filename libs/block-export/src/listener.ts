import { closeSync, fstatSync, lstatSync, unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { check, native } from '@cairn/native';
import type { HandedReader } from '@cairn/vhost-user';
import type { ReactorLoop } from './reactor-loop.js';
import type { ExportSpec } from './reactor-protocol.js';

const SOCKET_MODE = 0o600;
const BACKLOG = 16;
const { EADDRINUSE, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM } = constants.errno;

/** The host lacks descriptors or memory for one more front-end (accept(2)); it waits in the backlog. */
const SHORTAGES: ReadonlySet<number> = new Set([EMFILE, ENFILE, ENOBUFS, ENOMEM]);

const RETRY_MICROS = 1_000_000;

/** What a listener tells whoever has it. */
export interface ListenerEvents {
  /** A front-end has come; its socket is the callee's. */
  onFrontEnd: (fd: number) => void;
  /** None can be taken now for want of something that the host lacks: told once, until one could be taken. */
  onShortage: (errno: string) => void;
  onFailure: () => void;
}

/** The socket on which front-ends come. Owns it. */
export class Listener {
  private source: number | undefined;
  private short = false;

  constructor(
    private readonly loop: ReactorLoop,
    readonly fd: number,
    private readonly events: ListenerEvents,
  ) {}

  /** Are front-ends taken as they come? */
  get open(): boolean {
    return this.source !== undefined;
  }

  /** Takes front-ends from now on, those first that wait already. */
  start(): void {
    this.source ??= this.loop.watch(this.fd, this.accept);
  }

  /** Leaves those who come in the backlog. */
  stop(): void {
    this.loop.cancelLater(this.accept);
    if (this.source !== undefined) this.loop.unwatch(this.source);
    this.source = undefined;
  }

  close(): void {
    this.stop();
    closeSync(this.fd);
  }

  /** Takes whoever waits: several may have come for one event. */
  private readonly accept = (): void => {
    while (this.open) {
      const fd = native.accept(this.fd);
      if (fd < 0) return this.failed(-fd);
      this.short = false;
      this.events.onFrontEnd(fd);
    }
  };

  private failed(errno: number): void {
    if (errno === EAGAIN) return;
    if (!SHORTAGES.has(errno)) return this.events.onFailure();
    // Nothing tells that there is a descriptor again, and who waits in the backlog makes no further event.
    this.loop.later(this.accept, RETRY_MICROS);
    if (this.short) return;
    this.short = true;
    this.events.onShortage(getSystemErrorName(-errno));
  }
}

/**
 * The listening socket of an export: handed over by a predecessor, handed down to this process, or made at its path.
 * Throws an Error that says what is wrong.
 */
export const openListener = (spec: ExportSpec, reader: HandedReader | undefined): number => {
  if (!reader) return spec.socketFd === undefined ? listen(spec) : inherited(spec.socketFd);
  const fd = reader.fd('listener');
  try {
    return inherited(fd);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
};

/** Listens on a socket file of mode 0600; one that a dead process left behind is replaced, anything else is not. */
const listen = ({ socketPath: path, socketIsOurs = false }: ExportSpec): number => {
  if (path === undefined) throw new Error('an export needs a socket path or a listening socket');
  let fd = native.unixListen(path, BACKLOG, SOCKET_MODE);
  if (fd === -EADDRINUSE) {
    if (!lstatSync(path).isSocket()) throw new Error(`${path} exists and is not a socket; move it away`);
    // Only a refused connection proves that nobody listens; a full backlog, say, or another user's socket does not.
    const nobody = socketIsOurs || check(`connect to ${path}`, native.unixProbe(path)) === 0;
    if (!nobody) throw new Error(`another process listens on ${path}; stop it or choose another path`);
    unlinkSync(path);
    fd = native.unixListen(path, BACKLOG, SOCKET_MODE);
  }
  return check(`listen on ${path}`, fd);
};

/** Checks a socket that was handed down to this process: it must be one, or polling it would never rest. */
const inherited = (fd: number): number => {
  check(`use descriptor ${fd}`, native.setNonblocking(fd, 1));
  if (!fstatSync(fd).isSocket()) throw new Error(`descriptor ${fd} is not a socket`);
  return fd;
};

/** Removes a socket file as far as it can be: one that stays is replaced by whoever listens there next. */
export const removeSocket = (path: string): void => {
  try {
    unlinkSync(path);
  } catch {
    // Gone already, or its directory was taken away from us; no other guest of this thread may suffer from that.
  }
};
