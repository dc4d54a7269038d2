import { closeSync, lstatSync, unlinkSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { Session, type VhostUserError } from '@cairn/vhost-user';
import { BlkDevice } from './blk-device.js';
import type { ExportSpec, ExportStatus } from './reactor-protocol.js';
import type { ReactorLoop } from './reactor-loop.js';
import { openVolumeFile } from './volume-file.js';

const SOCKET_MODE = 0o600;
const EADDRINUSE = 98;
const EAGAIN = 11;

/** One served volume: its file, its listening socket, and the one front-end that is connected, if any. */
export class Export {
  readonly device: BlkDevice;
  private readonly listenFd: number;
  private readonly ownsSocketFile: boolean;
  private acceptSource: number | undefined;
  private session: Session | undefined;
  private sessionSource: number | undefined;
  private lastDisconnect: string | undefined;
  private readonly disconnects = new Map<string, number>();
  private readonly closeWaiters: (() => void)[] = [];
  private closing = false;

  /** Opens the file and listens. Throws an Error that says what is wrong; then nothing is left open. */
  constructor(
    private readonly loop: ReactorLoop,
    private readonly spec: ExportSpec,
  ) {
    const file = openVolumeFile(spec.filePath, spec);
    try {
      this.ownsSocketFile = spec.socketFd === undefined;
      this.listenFd = spec.socketFd ?? listen(spec.socketPath);
    } catch (error) {
      closeSync(file.fd);
      throw error;
    }
    native.setNonblocking(this.listenFd, 1);
    this.device = new BlkDevice(loop, { file, ...spec });
    this.awaitFrontEnd();
  }

  /** Must the session go because its front-end took memory away that it shared? */
  dropIfMemoryFaulted(makeReason: () => VhostUserError): void {
    if (this.session?.memoryFaulted) this.session.close(makeReason());
  }

  resize(sizeBytes: number): void {
    this.device.setCapacity(sizeBytes);
    this.session?.notifyConfigChange();
  }

  status(): ExportStatus {
    const { counters, errors, faults, failed } = this.device;
    const all = [...faults, ...this.disconnects];
    return {
      id: this.spec.id,
      connected: this.session !== undefined,
      ...(failed === undefined ? {} : { failed }),
      ...(this.lastDisconnect === undefined ? {} : { lastDisconnect: this.lastDisconnect }),
      ...counters,
      sizeBytes: this.device.sizeBytes,
      guestFaults: all.reduce((sum, [, count]) => sum + count, 0),
      faultsByName: Object.fromEntries(all),
      errorsByName: Object.fromEntries(errors),
    };
  }

  /** Stops listening, drains and disconnects the front-end, then calls `done`. What was completed is flushed. */
  close(done: () => void): void {
    this.closeWaiters.push(done);
    if (this.closing) return;
    this.closing = true;
    if (this.acceptSource !== undefined) this.loop.unwatch(this.acceptSource);
    if (this.session) this.session.close();
    else this.release();
  }

  private awaitFrontEnd(): void {
    this.acceptSource = this.loop.watch(this.listenFd, () => this.accept());
  }

  private accept(): void {
    if (this.session || this.closing) return;
    const fd = native.accept(this.listenFd);
    if (fd < 0) {
      if (fd !== -EAGAIN) this.noteDisconnect('accept-failed');
      return;
    }
    // One front-end at a time: the next one waits in the backlog until this one has gone.
    this.loop.unwatch(this.acceptSource!);
    this.acceptSource = undefined;
    this.device.reset();
    const session = new Session(fd, this.device, (reason) => this.disconnected(reason));
    this.session = session;
    this.sessionSource = this.loop.watch(fd, () => session.onReadable());
  }

  private disconnected(reason: VhostUserError | undefined): void {
    if (this.sessionSource !== undefined) this.loop.unwatch(this.sessionSource);
    this.sessionSource = undefined;
    this.session = undefined;
    if (reason) this.noteDisconnect(reason.fault, reason.message);
    if (this.closing) this.release();
    else this.awaitFrontEnd();
  }

  private noteDisconnect(name: string, message = name): void {
    this.lastDisconnect = message;
    this.disconnects.set(name, (this.disconnects.get(name) ?? 0) + 1);
  }

  private release(): void {
    const end = (): void => {
      this.device.close();
      closeSync(this.listenFd);
      if (this.ownsSocketFile && this.spec.socketPath !== undefined) unlinkIfThere(this.spec.socketPath);
      for (const done of this.closeWaiters.splice(0)) done();
    };
    if (this.spec.readOnly) end();
    else this.device.flush(end);
  }
}

/** Listens on a socket file of mode 0600; one that a dead process left behind is replaced, anything else is not. */
const listen = (path: string | undefined): number => {
  if (path === undefined) throw new Error('an export needs a socket path or a listening socket');
  let fd = native.unixListen(path, 16, SOCKET_MODE);
  if (fd === -EADDRINUSE) {
    if (!lstatSync(path).isSocket()) throw new Error(`${path} exists and is not a socket; move it away`);
    const other = native.unixConnect(path);
    if (other >= 0) {
      closeSync(other);
      throw new Error(`another process listens on ${path}; stop it or choose another path`);
    }
    unlinkSync(path);
    fd = native.unixListen(path, 16, SOCKET_MODE);
  }
  return check(`listen on ${path}`, fd);
};

const unlinkIfThere = (path: string): void => {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
};
