import { closeSync, fstatSync, lstatSync, unlinkSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { Session, type VhostUserError } from '@cairn/vhost-user';
import { BlkBackend, type RingPlaces } from './blk-backend.js';
import { ExportArena } from './export-arena.js';
import { NO_LIMITS } from './rate-limiter.js';
import type { ReactorLoop } from './reactor-loop.js';
import type { ConnectionStatus, ExportSpec } from './reactor-protocol.js';
import { openVolumeFile, volumeUnitBytes, type VolumeFile } from './volume-file.js';

const SOCKET_MODE = 0o600;
const EADDRINUSE = 98;
const EAGAIN = 11;

/** One served volume: its file, its listening socket, and the one front-end that is connected, if any. */
export class Export {
  private readonly backend: BlkBackend;
  private readonly file: VolumeFile;
  private readonly listenFd: number;
  private acceptSource: number | undefined;
  private session: Session | undefined;
  private sessionSource: number | undefined;
  private lastDisconnect: string | undefined;
  private readonly disconnects = new Map<string, number>();
  private readonly closeWaiters: (() => void)[] = [];
  private ending = false;

  /** Opens the file and listens. Throws an Error that says what is wrong; then nothing is left open. */
  constructor(
    private readonly loop: ReactorLoop,
    places: RingPlaces,
    private readonly spec: ExportSpec,
    buffer: SharedArrayBuffer,
  ) {
    this.file = spec.nullBytes === undefined ? openVolumeFile(spec.filePath, spec) : nullFile(spec.nullBytes);
    try {
      this.listenFd = spec.socketFd === undefined ? listen(spec.socketPath) : inherited(spec.socketFd);
    } catch (error) {
      closeFile(this.file);
      throw error;
    }
    const { id, readOnly, serial, numQueues } = spec;
    const arena = ExportArena.over(buffer);
    arena.limiter.configure(spec.limits ?? NO_LIMITS, native.clockMicros());
    const shard = { exportId: id, file: this.file, readOnly, serial, arena: buffer };
    this.backend = new BlkBackend(places, { spec: shard, arena, numQueues });
    this.awaitFrontEnd();
  }

  /** Must the session go because its front-end took memory away that it shared? */
  dropIfMemoryFaulted(makeReason: () => VhostUserError): void {
    if (this.session?.memoryFaulted) this.session.close(makeReason());
  }

  /** Is it on its way out? `close` tells when it is gone. */
  get closing(): boolean {
    return this.ending;
  }

  /** Announces a greater size. Throws when the file does not have it, or when it is smaller than now. */
  resize(sizeBytes: number): void {
    const fileBytes = this.file.fd < 0 ? sizeBytes : fstatSync(this.file.fd).size;
    const unit = volumeUnitBytes(this.file);
    const before = this.backend.sizeBytes;
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes % unit !== 0)
      throw new Error(`the size must be a multiple of ${unit} bytes, not ${sizeBytes}`);
    if (sizeBytes < before) throw new Error(`the volume has ${before} bytes; volumes never shrink`);
    if (sizeBytes > fileBytes)
      throw new Error(`${this.spec.filePath} has ${fileBytes} bytes, not ${sizeBytes}: grow it first`);
    this.backend.resize(sizeBytes);
    this.session?.notifyConfigChange();
  }

  status(): ConnectionStatus {
    return {
      id: this.spec.id,
      connected: this.session !== undefined,
      ...(this.lastDisconnect === undefined ? {} : { lastDisconnect: this.lastDisconnect }),
      disconnects: Object.fromEntries(this.disconnects),
    };
  }

  /** Stops listening, drains and disconnects the front-end, then calls `done`. What was completed is flushed. */
  close(done: () => void): void {
    this.closeWaiters.push(done);
    if (this.ending) return;
    this.ending = true;
    if (this.acceptSource !== undefined) this.loop.unwatch(this.acceptSource);
    if (this.session) this.session.close();
    else this.release();
  }

  private awaitFrontEnd(): void {
    this.acceptSource = this.loop.watch(this.listenFd, () => this.accept());
  }

  private accept(): void {
    if (this.session || this.ending) return;
    const fd = native.accept(this.listenFd);
    if (fd < 0) {
      if (fd !== -EAGAIN) this.noteDisconnect('accept-failed');
      return;
    }
    // One front-end at a time: the next one waits in the backlog until this one has gone.
    this.loop.unwatch(this.acceptSource!);
    this.acceptSource = undefined;
    this.backend.reset();
    const session = new Session(
      fd,
      this.backend,
      (reason) => this.disconnected(reason),
      () => this.hear(session),
    );
    this.session = session;
    this.hear(session);
  }

  /** Has the session told of what its socket has to say now (watching anew finds what is there) and later. */
  private hear(session: Session): void {
    if (this.sessionSource !== undefined) this.loop.unwatch(this.sessionSource);
    this.sessionSource = this.loop.watch(session.fd, () => session.onReadable());
  }

  private disconnected(reason: VhostUserError | undefined): void {
    if (this.sessionSource !== undefined) this.loop.unwatch(this.sessionSource);
    this.sessionSource = undefined;
    this.session = undefined;
    if (reason) this.noteDisconnect(reason.fault, reason.message);
    if (this.ending) this.release();
    else this.awaitFrontEnd();
  }

  private noteDisconnect(name: string, message = name): void {
    this.lastDisconnect = message;
    this.disconnects.set(name, (this.disconnects.get(name) ?? 0) + 1);
  }

  private release(): void {
    const end = (): void =>
      this.backend.close(() => {
        closeFile(this.file);
        closeSync(this.listenFd);
        if (this.spec.socketFd === undefined && this.spec.socketPath !== undefined)
          removeSocket(this.spec.socketPath);
        for (const done of this.closeWaiters.splice(0)) done();
      });
    if (this.spec.readOnly) end();
    else this.backend.flush(end);
  }
}

const nullFile = (sizeBytes: number): VolumeFile => ({ fd: -1, sizeBytes, memoryMask: 0, offsetMask: 0 });

const closeFile = (file: VolumeFile): void => {
  if (file.fd >= 0) closeSync(file.fd);
};

/** Listens on a socket file of mode 0600; one that a dead process left behind is replaced, anything else is not. */
const listen = (path: string | undefined): number => {
  if (path === undefined) throw new Error('an export needs a socket path or a listening socket');
  let fd = native.unixListen(path, 16, SOCKET_MODE);
  if (fd === -EADDRINUSE) {
    if (!lstatSync(path).isSocket()) throw new Error(`${path} exists and is not a socket; move it away`);
    // Only a refused connection proves that nobody listens; a full backlog, say, or another user's socket does not.
    const nobody = check(`connect to ${path}`, native.unixProbe(path)) === 0;
    if (!nobody) throw new Error(`another process listens on ${path}; stop it or choose another path`);
    unlinkSync(path);
    fd = native.unixListen(path, 16, SOCKET_MODE);
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
const removeSocket = (path: string): void => {
  try {
    unlinkSync(path);
  } catch {
    // Gone already, or its directory was taken away from us; no other guest of this thread may suffer from that.
  }
};
