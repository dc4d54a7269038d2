import { closeSync, fstatSync } from 'node:fs';
import {
  FdBag,
  FdList,
  type Handed,
  HandedReader,
  Session,
  type SessionEvents,
  type VhostUserError,
} from '@cairn/vhost-user';
import { BlkBackend, type RingPlaces } from './blk-backend.js';
import { ExportArena } from './export-arena.js';
import { adoptHead, closeVolumeFile, openChain } from './layer-files.js';
import { Listener, openListener, removeSocket } from './listener.js';
import type { ReactorLoop } from './reactor-loop.js';
import { REACTOR_COUNTER } from './reactor-metrics.js';
import type { ConnectionStatus, ExportSpec } from './reactor-protocol.js';
import { RingTurn, type TurnMember } from './ring-turn.js';
import { ServedFiles } from './served-files.js';
import { openVolumeFile, volumeUnitBytes, type VolumeFile } from './volume-file.js';

/** Front-ends that are heard at once: the source and the destination of a migration. The next waits in the backlog. */
const MAX_FRONT_ENDS = 2;

/** A connected front-end. */
interface FrontEnd {
  session: Session;
  member: TurnMember;
  /** Watches the session's socket. */
  source: number | undefined;
  /** Does nothing any more, until the export resumes? */
  still: boolean;
}

/** One served volume: its file, its listening socket, and the front-ends that are connected. */
export class Export {
  private readonly backend: BlkBackend;
  private readonly turn: RingTurn;
  readonly files: ServedFiles;
  private readonly listener: Listener;
  private readonly frontEnds = new Set<FrontEnd>();
  private lastDisconnect: string | undefined;
  private readonly disconnects = new Map<string, number>();
  private readonly closeWaiters: (() => void)[] = [];
  private ending = false;
  /** Set while nothing goes on: about to be told, or told, what a successor must know; see `suspend`. */
  private suspension: { done: (handed: Handed) => void; told: boolean } | undefined;
  /** Has a successor all that is here? */
  private handedOver = false;

  /**
   * Opens the file and listens; or, with `handed`, takes over what a predecessor had, and stands still until `resume`.
   * Owns what was handed in any case. Throws an Error that says what is wrong; then nothing is left open.
   */
  constructor(
    private readonly loop: ReactorLoop,
    places: RingPlaces,
    private readonly spec: ExportSpec,
    options: { arena: SharedArrayBuffer; handed?: Handed | undefined },
  ) {
    const bag = new FdBag(options.handed?.fds ?? []);
    const reader = options.handed && new HandedReader(options.handed.state, bag, 'export');
    const { id, readOnly, serial, numQueues } = spec;
    let file: VolumeFile | undefined;
    let listenFd: number | undefined;
    try {
      file = openFile(spec, reader);
      listenFd = openListener(spec, reader);
      const shard = { exportId: id, file, readOnly, serial, arena: options.arena };
      const arena = ExportArena.over(options.arena);
      this.backend = new BlkBackend(places, { spec: shard, arena, numQueues });
      this.files = new ServedFiles(file, this.backend, spec);
      this.turn = new RingTurn(this.backend);
      this.listener = new Listener(loop, listenFd, {
        onFrontEnd: (fd) => this.welcome(fd),
        onShortage: (errno) => this.noteShortage(errno),
        onFailure: () => this.noteDisconnect('accept-failed'),
      });
      if (reader) this.adopt(reader);
      else this.listener.start();
    } catch (error) {
      if (file) closeVolumeFile(file);
      if (listenFd !== undefined) closeSync(listenFd);
      throw error;
    } finally {
      bag.closeRest();
    }
  }

  /** Drops every front-end that took memory away that it shared. */
  dropIfMemoryFaulted(makeReason: () => VhostUserError): void {
    for (const { session } of this.frontEnds) if (session.memoryFaulted) session.close(makeReason());
  }

  /** Is it on its way out? `close` tells when it is gone. */
  get closing(): boolean {
    return this.ending;
  }

  /** Announces a greater size. Throws when the file does not have it, or when it is smaller than now. */
  resize(sizeBytes: number): void {
    const file = this.files.current;
    const fileBytes = file.fd < 0 ? sizeBytes : fstatSync(file.fd).size;
    const unit = volumeUnitBytes(file);
    const before = this.backend.sizeBytes;
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes % unit !== 0)
      throw new Error(`the size must be a multiple of ${unit} bytes, not ${sizeBytes}`);
    if (sizeBytes < before) throw new Error(`the volume has ${before} bytes; volumes never shrink`);
    if (sizeBytes > fileBytes)
      throw new Error(`${this.spec.filePath} has ${fileBytes} bytes, not ${sizeBytes}: grow it first`);
    this.backend.resize(sizeBytes);
    for (const { session } of this.frontEnds) session.notifyConfigChange();
  }

  /** Calls `done` when every request that is in flight now has completed. */
  barrier(done: () => void): void {
    this.backend.barrier(done);
  }

  status(): ConnectionStatus {
    const { waiting } = this.turn;
    return {
      id: this.spec.id,
      connected: this.frontEnds.size > 0,
      ...(waiting === undefined ? {} : { waiting }),
      ...(this.lastDisconnect === undefined ? {} : { lastDisconnect: this.lastDisconnect }),
      disconnects: Object.fromEntries(this.disconnects),
    };
  }

  /** Stops listening, drains and disconnects the front-ends, then calls `done`. What was completed is flushed. */
  close(done: () => void): void {
    this.closeWaiters.push(done);
    if (this.ending) return;
    this.ending = true;
    this.listener.stop();
    if (this.frontEnds.size === 0) this.end();
    else for (const { session } of [...this.frontEnds]) session.close();
  }

  /**
   * Stops taking requests and front-ends, lets what is in flight complete, and calls `done` with what a successor needs to
   * go on; the descriptors stay ours. The front-ends notice nothing. Not called when `resume` or `close` comes first.
   */
  suspend(done: (handed: Handed) => void): void {
    if (this.ending) throw new Error(`export ${this.spec.id} is on its way out`);
    this.suspension = { done, told: false };
    this.listener.stop();
    for (const frontEnd of this.frontEnds) {
      frontEnd.session.suspend(() => {
        frontEnd.still = true;
        this.tellIfStill();
      });
    }
    this.tellIfStill();
  }

  /** Goes on after `suspend`, or with what a predecessor handed over. */
  resume(): void {
    if (this.ending) return;
    this.suspension = undefined;
    for (const frontEnd of this.frontEnds) {
      frontEnd.still = false;
      frontEnd.session.resume();
      this.hear(frontEnd);
    }
    if (this.frontEnds.size < MAX_FRONT_ENDS) this.listener.start();
  }

  /** Lets go of everything after `suspend`, as a successor has it: no file is flushed, no socket removed. */
  release(done: () => void): void {
    this.handedOver = true;
    this.close(done);
  }

  private tellIfStill(): void {
    const { suspension } = this;
    if (!suspension || suspension.told || this.ending || [...this.frontEnds].some(({ still }) => !still))
      return;
    suspension.told = true;
    suspension.done(this.handed());
  }

  private handed(): Handed {
    const list = new FdList();
    const head = this.files.current.fd;
    // Who has the turn comes first, so that it has it again.
    const ordered = [...this.frontEnds].toSorted(
      (one, other) => Number(this.turn.isHolder(other.member)) - Number(this.turn.isHolder(one.member)),
    );
    const state = {
      ...(head >= 0 && { head: { fd: list.add(head), cache: this.spec.cache } }),
      listener: list.add(this.listener.fd),
      device: this.backend.state(),
      frontEnds: ordered.map(({ session }) => session.state(list)),
    };
    return { state, fds: list.fds };
  }

  private adopt(reader: HandedReader): void {
    this.suspension = { done: () => undefined, told: true };
    try {
      for (const one of reader.list('frontEnds', MAX_FRONT_ENDS))
        this.join((member, events) => Session.adopt(one, member, events));
      // After them: the first one finds the device as it was made.
      this.backend.adopt(reader.object('device'));
      reader.end();
    } catch (error) {
      this.ending = true;
      for (const { session } of [...this.frontEnds]) session.close();
      throw error;
    }
  }

  private welcome(fd: number): void {
    const frontEnd = this.join((member, events) => Session.begin(fd, member, events));
    if (this.frontEnds.size === MAX_FRONT_ENDS) this.listener.stop();
    this.hear(frontEnd);
  }

  private join(begin: (member: TurnMember, events: SessionEvents) => Session): FrontEnd {
    const member = this.turn.join();
    const events = {
      onClosed: (reason: VhostUserError | undefined): void => {
        this.turn.leave(member);
        this.disconnected(frontEnd, reason);
      },
      onMore: () => this.hear(frontEnd),
    };
    const frontEnd: FrontEnd = { session: begin(member, events), member, source: undefined, still: false };
    this.frontEnds.add(frontEnd);
    return frontEnd;
  }

  /** Has the session told of what its socket has to say now (watching anew finds what is there) and later. */
  private hear(frontEnd: FrontEnd): void {
    if (frontEnd.source !== undefined) this.loop.unwatch(frontEnd.source);
    frontEnd.source = this.loop.watch(frontEnd.session.fd, () => frontEnd.session.onReadable());
  }

  private disconnected(frontEnd: FrontEnd, reason: VhostUserError | undefined): void {
    if (frontEnd.source !== undefined) this.loop.unwatch(frontEnd.source);
    this.frontEnds.delete(frontEnd);
    if (reason) this.noteDisconnect(reason.fault, reason.message);
    if (this.suspension) this.tellIfStill();
    else if (!this.ending) this.listener.start();
    if (this.closeWaiters.length > 0 && this.frontEnds.size === 0) this.end();
  }

  private noteDisconnect(name: string, message = name): void {
    this.lastDisconnect = message;
    this.disconnects.set(name, (this.disconnects.get(name) ?? 0) + 1);
  }

  private noteShortage(errno: string): void {
    this.loop.count(REACTOR_COUNTER.shortages);
    this.loop.onNotice(
      `export ${this.spec.id} cannot take a front-end that waits (${errno}); it is tried again each second. ` +
        'Raise the limit of open files (ulimit -n), or give the host more memory',
    );
  }

  private end(): void {
    const end = (): void =>
      this.backend.close(() => {
        this.files.close();
        this.listener.close();
        if (!this.handedOver && this.spec.socketFd === undefined && this.spec.socketPath !== undefined)
          removeSocket(this.spec.socketPath);
        for (const done of this.closeWaiters.splice(0)) done();
      });
    if (this.spec.readOnly || this.handedOver) end();
    else this.backend.flush(end);
  }
}

/** The chain, the one file, or none at all; with the predecessor's head, if that was opened in the same way. */
const openFile = (spec: ExportSpec, reader: HandedReader | undefined): VolumeFile => {
  if (spec.nullBytes !== undefined) return nullFile(spec.nullBytes);
  const file = spec.chain ? openChain(spec.chain, spec) : openVolumeFile(spec.filePath, spec);
  if (!reader) return file;
  try {
    const head = reader.object('head');
    if (head.text('cache') !== spec.cache) return file;
    return adoptHead(file, head.fd('fd'));
  } catch (error) {
    closeVolumeFile(file);
    throw error;
  }
};

const nullFile = (sizeBytes: number): VolumeFile => ({ fd: -1, sizeBytes, memoryMask: 0, offsetMask: 0 });
