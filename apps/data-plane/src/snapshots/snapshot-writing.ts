import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import {
  AgentError,
  type AgentSnapshot,
  type AgentWriting,
  type CompleteWriting,
  type StartWriting,
} from '@cairn/agent';
import { DataTickets, isId, noFaultPoints, type FaultPoints, type SnapshotId } from '@cairn/domain';
import type { SnapshotRecord, VolumeStore } from '@cairn/storage';
import { agentErrorOf } from '../exports/storage-refusals.js';

/** The part of the volume store that is used. */
export type WritingPool = Pick<VolumeStore, 'snapshotWriter' | 'snapshots'>;

/** What it works with. */
export interface SnapshotWritingParts {
  readonly pool: WritingPool;
  /** Of the tickets; a node without a control plane has none, and no ticket is good there. */
  readonly secret: string | undefined;
  /** What nothing was put into is looked for so often. */
  readonly intervalMs: number;
  readonly faultPoints?: FaultPoints;
}

/** A block on its way in. */
export interface PutBlock {
  readonly index: string;
  /** SHA-256 in Base64. */
  readonly checksum: string | undefined;
  /** How far whoever puts it is, in percent. */
  readonly progress: string | undefined;
  readonly read: () => Promise<Uint8Array>;
}

/** A call does not wait longer for a completion, and is made again: less than the time-out of any caller. */
const completionWaitMs = 2000;
/** Each takes 512 KiB while it is on its way in. One snapshot has no more than half, so that others come in, too. */
const putsMax = 64;
const putsOfOneMax = putsMax / 2;
const indexPattern = /^\d{1,12}$/;

/** Snapshots that are written from blocks: begun and completed by workers, filled by bearers of tickets. */
export class SnapshotWriting {
  private readonly logger = new Logger(SnapshotWriting.name);
  private readonly tickets: DataTickets | undefined;
  private readonly faultPoints: FaultPoints;
  private readonly percents = new Map<string, number>();
  /** Completions under way, and those of which nobody has heard the outcome. */
  private readonly completions = new Map<string, { asked: string; outcome: Promise<SnapshotRecord> }>();
  private puts = 0;
  private readonly putsOf = new Map<string, number>();
  private expires = false;
  private timer: NodeJS.Timeout | undefined;
  private turn: Promise<void> = Promise.resolve();

  constructor(private readonly parts: SnapshotWritingParts) {
    this.tickets = parts.secret === undefined ? undefined : new DataTickets(parts.secret);
    this.faultPoints = parts.faultPoints ?? noFaultPoints;
  }

  /** See AgentClient.startWriting. */
  async start(snapshotId: SnapshotId, request: StartWriting): Promise<void> {
    try {
      await this.parts.pool.snapshotWriter.start({ snapshotId, ...request });
    } catch (error) {
      throw agentErrorOf(error, 'storage-failed');
    }
    this.keepTime();
    this.faultPoints.reach('data-plane.before-answer');
  }

  /** Snapshots that blocks are put into now. */
  list(): AgentWriting[] {
    return this.parts.pool.snapshots.list().flatMap(({ id, state }) => {
      if (state !== 'writing' || !isId('snap', id)) return [];
      const percent = this.percents.get(id);
      return [{ id, ...(percent === undefined ? {} : { percent }) }];
    });
  }

  /** Puts a block of the snapshot that the ticket is for; it is on the disk when this resolves. */
  async put(text: string, { index, checksum, progress, read }: PutBlock): Promise<void> {
    const ticket = this.tickets?.open(text);
    if (ticket?.access !== 'write') {
      throw new AgentError('unauthorized', 'the ticket is not good or is over; ask the API for another');
    }
    if (!indexPattern.test(index)) throw new AgentError('invalid-argument', 'the index is no whole number');
    if (checksum === undefined) {
      throw new AgentError('invalid-argument', 'x-cairn-sha256 must have the SHA-256 of the block in Base64');
    }
    const percent = progress === undefined ? undefined : Number(progress);
    if (percent !== undefined && !(Number.isInteger(percent) && percent >= 0 && percent <= 100)) {
      throw new AgentError('invalid-argument', 'x-cairn-progress must be a whole number from 0 to 100');
    }
    const { snapshotId } = ticket;
    const ofThis = this.putsOf.get(snapshotId) ?? 0;
    if (this.puts >= putsMax || ofThis >= putsOfOneMax) {
      throw new AgentError(
        'snapshot-busy',
        `${this.puts} blocks are on their way in, ${ofThis} to this snapshot`,
      );
    }
    this.puts += 1;
    this.putsOf.set(snapshotId, ofThis + 1);
    try {
      const data = await read();
      await this.parts.pool.snapshotWriter.putBlock(snapshotId, Number(index), data, checksum);
      if (percent !== undefined) this.percents.set(snapshotId, percent);
    } catch (error) {
      throw agentErrorOf(error, 'storage-failed');
    } finally {
      this.puts -= 1;
      const left = this.putsOf.get(snapshotId)! - 1;
      if (left > 0) this.putsOf.set(snapshotId, left);
      else this.putsOf.delete(snapshotId);
    }
    this.faultPoints.reach('data-plane.before-answer');
  }

  /** See AgentClient.completeWriting. It goes on when a call has ended, and the next one asks how it went. */
  async complete(snapshotId: SnapshotId, request: CompleteWriting): Promise<AgentSnapshot> {
    const asked = JSON.stringify(request);
    let completion = this.completions.get(snapshotId);
    if (completion?.asked !== asked) {
      completion = { asked, outcome: this.parts.pool.snapshotWriter.complete(snapshotId, request) };
      this.completions.set(snapshotId, completion);
    }
    const { outcome } = completion;
    try {
      const over = new AbortController();
      const late = sleep(completionWaitMs, undefined, { signal: over.signal, ref: false });
      const done = await Promise.race([outcome, late]).finally(() => over.abort());
      if (done === undefined)
        throw new AgentError('snapshot-busy', `what was put into ${snapshotId} is being read`);
      this.forget(snapshotId, outcome);
      this.faultPoints.reach('data-plane.before-answer');
      return { id: snapshotId, sizeBytes: done.sizeBytes };
    } catch (error) {
      if (!(error instanceof AgentError)) this.forget(snapshotId, outcome);
      throw agentErrorOf(error, 'storage-failed');
    }
  }

  /** Removes, from now on, what nothing was put into for too long. */
  startExpiry(): void {
    this.expires = true;
    this.keepTime();
  }

  async stopExpiry(): Promise<void> {
    this.expires = false;
    this.keepTime();
    await this.turn;
  }

  /** Never throws: what cannot be removed now is at the next turn. `now` is in milliseconds, like Date.now(). */
  async removeExpired(now = Date.now()): Promise<void> {
    try {
      const removed = await this.parts.pool.snapshotWriter.removeExpired(now);
      for (const id of removed) this.logger.log(`${id} is removed: no block was put for too long`);
    } catch (error) {
      this.logger.warn(
        `what expired is not removed now: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
    const writing = new Set<string>(this.list().map(({ id }) => id));
    for (const id of this.percents.keys()) if (!writing.has(id)) this.percents.delete(id);
    this.keepTime();
  }

  /** The clock runs only while there is something that may expire: a node that does nothing sleeps. */
  private keepTime(): void {
    if (this.expires && this.list().length > 0) {
      this.timer ??= setInterval(() => {
        this.turn = this.removeExpired();
      }, this.parts.intervalMs).unref();
    } else {
      clearInterval(this.timer);
      this.timer = undefined;
    }
  }

  private forget(snapshotId: string, outcome: Promise<SnapshotRecord>): void {
    if (this.completions.get(snapshotId)?.outcome === outcome) this.completions.delete(snapshotId);
  }
}
