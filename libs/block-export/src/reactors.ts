import { closeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { native } from '@cairn/native';
import type { HeadSwitch, VolumeChain } from '@cairn/storage';
import type { Handed } from '@cairn/vhost-user';
import { ChainChanges } from './chain-changes.js';
import { ExportArena } from './export-arena.js';
import { byName } from './failure-names.js';
import { Placement } from './placement.js';
import { NO_LIMITS, type RateLimits } from './rate-limits.js';
import { ReactorHandle } from './reactor-handle.js';
import { makeEventfds, meshOf } from './reactor-mesh.js';
import { ReactorMetrics, type ReactorStatus, threadCpuSeconds } from './reactor-metrics.js';
import type {
  AnswerMessage,
  ConnectionStatus,
  ExportSpec,
  ExportStatus,
  ReactorCommand,
  ReactorStart,
} from './reactor-protocol.js';
import type { StandStill } from './served-files.js';

/** About what a sleep and a wake-up cost both sides. */
export const DEFAULT_POLL_MICROS = 32;
/** Looking on for longer than this never pays: sleeping costs a few per cent of it. */
export const MAX_POLL_MICROS = 1000;
const DEFAULT_DRAIN_MS = 30_000;

/** How often rate limits are told the time, also where nobody asks: far more often than its clock wraps. */
const TICK_EVERY_MS = 60_000;

/** Most threads that serve rings in one process. */
export const MAX_REACTORS = 64;

/** One thread per core that this process may run on. */
export const defaultReactors = (): number => Math.min(MAX_REACTORS, availableParallelism());

export interface ReactorsOptions {
  /** Threads that serve the rings; default: one per core. */
  reactors?: number;
  /** How long a thread looks at rings that were busy before it sleeps, at most; 0 = never. See docs/polling.md. */
  pollMicros?: number;
  /** Told what the operator should know, for the log; told rarely. */
  onNotice?: (notice: string) => void;
}

/** An export and where it lives. */
interface Placed {
  home: ReactorHandle;
  arena: ExportArena;
  limits: RateLimits | undefined;
}

/**
 * The reactor threads of this process: they serve exports until they are stopped.
 *
 * An export's home, the thread with the fewest exports, talks to its front-end; its rings run on whichever thread has
 * the fewest rings. Every method rejects once a thread has died; `failed` tells why. Guests notice a dead thread as a
 * disk that does not answer, so the process should end and be started again.
 */
export class Reactors {
  /** Resolves with the reason when a thread dies; never when they are stopped. */
  readonly failed: Promise<Error>;
  private readonly exports = new Map<string, Placed>();
  private readonly adding = new Map<string, Promise<void>>();
  private readonly removing = new Map<string, Promise<void>>();
  private readonly changes = new ChainChanges({ ask: (id, command) => this.askHome(id, command) });
  /** Runs while any export has limits. */
  private ticks: NodeJS.Timeout | undefined;
  private stopped: Promise<void> | undefined;

  private constructor(
    private readonly handles: readonly ReactorHandle[],
    private readonly wakeFds: readonly number[],
    private readonly shared: { placement: SharedArrayBuffer; metrics: SharedArrayBuffer },
  ) {
    this.failed = new Promise((resolve) => {
      for (const handle of handles)
        void handle.died.then((error) => {
          if (this.stopped === undefined) resolve(error);
        });
    });
  }

  /** Starts the threads. Rejects when one cannot start (the kernel has no io_uring, say); then none is left. */
  static async start(options: ReactorsOptions = {}): Promise<Reactors> {
    const count = options.reactors ?? defaultReactors();
    const wakeFds = makeEventfds(count);
    const shared = { placement: Placement.bufferFor(count), metrics: ReactorMetrics.bufferFor(count) };
    const ports = meshOf(count);
    const handles = wakeFds.map((wakeFd, reactor) => {
      const pollMicros = options.pollMicros ?? DEFAULT_POLL_MICROS;
      const workerData: ReactorStart = { reactor, pollMicros, wakeFds, ports: ports[reactor]!, ...shared };
      const worker = new Worker(new URL('./reactor-thread.js', import.meta.url), {
        workerData,
        transferList: workerData.ports.filter((port) => port !== undefined),
        name: `reactor ${reactor}`,
        trackUnmanagedFds: false, // descriptors come from the addon and over sockets, which Node.js does not see
      });
      return new ReactorHandle(worker, wakeFd, options.onNotice ?? (() => undefined));
    });
    const reactors = new Reactors(handles, wakeFds, shared);
    try {
      await Promise.all(handles.map((handle) => handle.started()));
    } catch (error) {
      await reactors.abandon();
      throw error;
    }
    return reactors;
  }

  /**
   * Serves a volume file; resolves when it listens. The same id again changes nothing.
   *
   * With `handed`, what a predecessor's `suspendExport` told, it goes on with that one's front-ends, once `resumeExport` is
   * called. The descriptors in it are this one's from now on, also when it rejects.
   */
  async addExport(spec: ExportSpec, handed?: Handed): Promise<void> {
    // One that is on its way out serves nobody: the new one takes its place when it is gone.
    await this.removing.get(spec.id);
    this.throwIfDead();
    if (this.exports.has(spec.id)) return this.adding.get(spec.id);
    const home = this.handles.reduce((best, handle) => (handle.exports < best.exports ? handle : best));
    const arena = ExportArena.make(this.handles.length);
    home.exports += 1;
    arena.limiter.configure(spec.limits ?? NO_LIMITS, native.clockMicros());
    this.exports.set(spec.id, { home, arena, limits: spec.limits });
    this.keepTime();
    const added = home.ask({ kind: 'add', spec, arena: arena.buffer, handed }).then(
      () => undefined,
      (error: unknown) => {
        this.forget(spec.id);
        throw error;
      },
    );
    this.adding.set(spec.id, added);
    try {
      await added;
    } finally {
      this.adding.delete(spec.id);
    }
    return undefined;
  }

  /**
   * Stops listening, lets requests in flight complete, disconnects the front-end and flushes. Resolves with
   * the reason when a flush has failed, this one or an earlier one: what was written since may be lost. An unknown id
   * resolves. Rejects after `drainTimeoutMs`; the export then goes as soon as its last request has ended.
   */
  async removeExport(id: string, options: { drainTimeoutMs?: number } = {}): Promise<string | undefined> {
    const placed = this.exports.get(id);
    if (!placed) return undefined;
    const removed = this.changes.inTurn([id], async () => {
      await placed.home.ask({ kind: 'remove', id });
      this.removing.delete(id);
      this.forget(id);
    });
    this.removing.set(id, removed);
    await withDeadline(removed, options.drainTimeoutMs, `draining export ${id}`);
    return placed.arena.shared.failure;
  }

  /**
   * Brings an export to a stand and tells what a successor needs to go on with it; its front-ends wait, and notice nothing
   * else. The descriptors in it stay this process's. `resumeExport` or `releaseExport` must follow.
   *
   * Rejects after `drainTimeoutMs` with requests still in flight; then the export goes on.
   */
  suspendExport(id: string, options: { drainTimeoutMs?: number } = {}): Promise<Handed> {
    return this.changes.inTurn([id], async () => {
      const suspended = this.homeOf(id).ask({ kind: 'suspend', id });
      try {
        const { handed } = await withDeadline(suspended, options.drainTimeoutMs, `draining export ${id}`);
        return handed!;
      } catch (error) {
        await this.resumeExport(id);
        throw error;
      }
    });
  }

  /** Lets an export go on. */
  async resumeExport(id: string): Promise<void> {
    await this.homeOf(id).ask({ kind: 'resume', id });
  }

  /** Forgets a suspended export, which a successor has; front-ends and socket file are left alone. */
  async releaseExport(id: string): Promise<void> {
    await this.homeOf(id).ask({ kind: 'release', id });
    this.forget(id);
  }

  /** Announces a greater size to the guest; the file, or the head of the chain, must have it already. */
  resizeExport(id: string, sizeBytes: number): Promise<void> {
    return this.changes.inTurn([id], async () => {
      if (!this.exports.has(id)) throw new Error(`there is no export ${id}`);
      await this.askHome(id, { kind: 'resize', id, sizeBytes });
    });
  }

  /**
   * Lets exports go over to new, empty heads at one point in time, with all that was written before durable in the old
   * ones. Rejects when that cannot be, or takes longer than `freezeTimeoutMs`; then all of them stay where they are, unless
   * a thread has died. One that is not served has nothing to go over. Resolves to how long rings stood still at most.
   */
  switchHeads(
    switches: readonly HeadSwitch[],
    options: { freezeTimeoutMs?: number } = {},
  ): Promise<StandStill> {
    return this.changes.goOver(switches, options);
  }

  /** Serves a volume from another chain that reads the same; when it resolves, no file that is only in the old one is open. */
  async changeChain(chain: VolumeChain): Promise<void> {
    await this.changes.goOver([{ volumeId: chain.volumeId, chain }]);
  }

  /** Resolves when every request of an export that is in flight now has completed. */
  barrier(id: string): Promise<void> {
    return this.changes.inTurn([id], async () => {
      await this.askHome(id, { kind: 'barrier', id });
    });
  }

  /** Changes how many requests and bytes a second a guest may have, at once; undefined = as many as there are. */
  limitExport(id: string, limits: RateLimits | undefined): void {
    const placed = this.exports.get(id);
    if (!placed) return;
    placed.limits = limits;
    placed.arena.limiter.configure(limits ?? NO_LIMITS, native.clockMicros());
    this.keepTime();
  }

  async status(id: string): Promise<ExportStatus | undefined> {
    return (await this.statuses()).find((status) => status.id === id);
  }

  async statuses(): Promise<ExportStatus[]> {
    const answers = await Promise.all(this.handles.map((handle) => handle.ask({ kind: 'status' })));
    return answers
      .flatMap((answer) => answer.statuses ?? [])
      .flatMap((connection) => this.statusOf(connection));
  }

  /** Requests of all exports that are in flight, about: for who has to make room for them. */
  requestsInFlight(): number {
    let count = 0;
    for (const { arena } of this.exports.values()) count += arena.inFlight();
    return count;
  }

  /** What the threads do, one by one. */
  reactorStatuses(): ReactorStatus[] {
    const placement = new Placement(this.shared.placement, 0);
    return this.handles.map(({ threadId }, reactor) => ({
      reactor,
      ...new ReactorMetrics(this.shared.metrics, reactor).counts(),
      cpuSeconds: threadCpuSeconds(threadId),
      rings: placement.ringsOf(reactor),
    }));
  }

  /**
   * Removes every export, then ends the threads. Rejects after `drainTimeoutMs` with requests still in flight, and once
   * a thread has died; then the others are ended as they are. Rejects with all done when a flush of an export has failed.
   */
  stop(options: { drainTimeoutMs?: number } = {}): Promise<void> {
    this.stopped ??= this.end(options);
    return this.stopped;
  }

  private async end(options: { drainTimeoutMs?: number }): Promise<void> {
    const drained = Promise.all(this.handles.map((handle) => handle.ask({ kind: 'drain' })));
    try {
      await withDeadline(drained, options.drainTimeoutMs, 'draining all exports');
    } catch (error) {
      if (this.handles.some((handle) => handle.death)) await this.abandon();
      throw error;
    }
    await this.abandon();
    const failures = [...this.exports].flatMap(([id, { arena }]) =>
      arena.shared.failure === undefined ? [] : [`${id}: ${arena.shared.failure}`],
    );
    if (failures.length > 0) throw new Error(failures.join('; '));
  }

  /** Ends the threads as they are; no more is tidied up than when the process is killed. */
  async abandon(): Promise<void> {
    const stopped = this.handles.map((handle) => handle.ask({ kind: 'stop' }));
    await Promise.allSettled(stopped); // a dead one has stopped, too
    await Promise.all(this.handles.map((handle) => handle.ended));
    this.stopTime();
    for (const fd of this.wakeFds) closeSync(fd);
  }

  private homeOf(id: string): ReactorHandle {
    this.throwIfDead();
    const placed = this.exports.get(id);
    if (!placed) throw new Error(`there is no export ${id}`);
    return placed.home;
  }

  /** A dead thread may hold a volume's rings although its home lives. */
  private throwIfDead(): void {
    for (const { death } of this.handles) if (death) throw death;
  }

  private statusOf({ disconnects, ...connection }: ConnectionStatus): ExportStatus[] {
    const { id } = connection;
    const placed = this.exports.get(id);
    if (!placed) return [];
    const { limits, arena } = placed;
    const { shared, limiter } = arena;
    const metrics = arena.total();
    const { errors, faults } = byName(metrics.names);
    const faultsByName = { ...faults, ...disconnects };
    const { failure } = shared;
    const status: ExportStatus = {
      ...connection,
      ...(failure === undefined ? {} : { failed: failure }),
      sizeBytes: shared.sizeBytes,
      requests: sumOf(metrics.requests),
      bytesRead: metrics.bytes.read,
      bytesWritten: metrics.bytes.write,
      guestFaults: sumOf(faultsByName),
      faultsByName,
      errorsByName: errors,
      metrics,
      inFlight: metrics.counters.taken - sumOf(metrics.requests),
      ...(limits === undefined ? {} : { limits }),
      rate: limiter.balance(native.clockMicros()),
    };
    return [status];
  }

  /** Runs the clock of limits while there are any: a process that serves nobody sleeps. */
  private keepTime(): void {
    const limited = [...this.exports.values()].some(({ arena }) => arena.limiter.active);
    if (limited) this.ticks ??= setInterval(() => this.tick(), TICK_EVERY_MS).unref();
    else this.stopTime();
  }

  private stopTime(): void {
    clearInterval(this.ticks);
    this.ticks = undefined;
  }

  /** Asks an export's home; to be called in the export's turn. One that is not there has nothing to answer. */
  private async askHome(id: string, command: ReactorCommand): Promise<AnswerMessage | undefined> {
    this.throwIfDead();
    await this.adding.get(id);
    return this.exports.get(id)?.home.ask(command);
  }

  private tick(): void {
    for (const { arena } of this.exports.values()) arena.limiter.tick(native.clockMicros());
  }

  private forget(id: string): void {
    const placed = this.exports.get(id);
    if (!placed) return;
    this.exports.delete(id);
    placed.home.exports -= 1;
    this.keepTime();
  }
}

const sumOf = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((sum, count) => sum + count, 0);

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
