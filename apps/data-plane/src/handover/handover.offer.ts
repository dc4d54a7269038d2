// The predecessor's side of a hand-over; handover.messages.ts draws it.
import { chmodSync, unlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { Logger } from '@nestjs/common';
import { FdSocket, type Handed, type Reactors } from '@cairn/block-export';
import type { FaultPoints, VolumeId } from '@cairn/domain';
import { HandoverChannel, type Received } from './handover.channel.js';
import { descriptorSocket, handoverSocket, handoverVersion } from './handover.messages.js';

/** The part of the reactors that a hand-over uses. */
export type HandingReactors = Pick<Reactors, 'suspendExport' | 'resumeExport' | 'releaseExport'>;

/** The data plane that offers itself to a successor. */
export interface HandoverHost {
  readonly reactors: HandingReactors;
  /** Ends verbs and heartbeats; tells the pool's lock, and which volumes are served. */
  quiesce(): Promise<{ lockFd: number; served: VolumeId[] }>;
  /** The successor is dead: does verbs again, and serves what it had been given. */
  takeBack(lockFd: number): Promise<void>;
  /** The successor has everything that it wanted. */
  handedOver(): Promise<void>;
}

/** How long a disk may take for what is in flight; a guest waits so long at most, and is then served on. */
const drainTimeoutMs = 3000;

/** How long a guest may wait for a successor that has gone quiet. */
const answerTimeoutMs = 5000;

const retryMs = 1000;

/** How long a successor may prepare itself between two exports. */
const idleTimeoutMs = 30_000;

/** Waits for a successor, and hands it what it asks for. */
export class HandoverOffer {
  private readonly logger = new Logger(HandoverOffer.name);
  private server: Server | undefined;
  private running: Promise<void> | undefined;

  constructor(
    private readonly stateDirectory: string,
    private readonly host: HandoverHost,
    private readonly faultPoints: FaultPoints,
  ) {}

  /** Listens in the state directory. The pool's lock must be ours: whoever listened there before is dead. */
  async listen(): Promise<void> {
    const path = handoverSocket(this.stateDirectory);
    removeIfThere(path);
    const server = createServer((socket) => this.hear(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    chmodSync(path, 0o600);
    this.server = server;
  }

  /** Takes no further successor. Resolves when a hand-over that has begun has ended, one way or the other. */
  async close(): Promise<void> {
    this.stopListening();
    await this.running;
  }

  private stopListening(): void {
    this.server?.close();
    this.server = undefined;
  }

  private hear(socket: Socket): void {
    let successor = 0;
    const channel = new HandoverChannel(socket, () =>
      FdSocket.connect(descriptorSocket(this.stateDirectory, successor)),
    );
    void this.greet(channel)
      .then((pid) => {
        if (pid === undefined) return undefined;
        successor = pid;
        this.running = this.handOver(channel, successor).finally(() => (this.running = undefined));
        return this.running;
      })
      .catch((error: unknown) => this.logger.error(`hand-over: ${messageOf(error)}`))
      .finally(() => channel.close());
  }

  /** The successor's process id; undefined when it is refused, or went away. */
  private async greet(channel: HandoverChannel): Promise<number | undefined> {
    const hello = (await channel.next(answerTimeoutMs))?.message;
    if (hello?.kind !== 'hello') return undefined;
    const refusal = this.refusalOf(hello.version);
    if (refusal === undefined) {
      await channel.belongsTo(hello.pid);
      channel.send({ kind: 'hello', version: handoverVersion, pid: process.pid });
      return hello.pid;
    }
    this.logger.warn(`process ${hello.pid} may not take over: ${refusal}`);
    channel.send({ kind: 'refused', reason: refusal });
    await channel.gone();
    return undefined;
  }

  private refusalOf(version: number): string | undefined {
    if (this.running || !this.server)
      return 'another process is taking over already, or this one is stopping';
    if (version === handoverVersion) return undefined;
    return `it speaks version ${version} of the hand-over, and the running release version ${handoverVersion}`;
  }

  private async handOver(channel: HandoverChannel, successor: number): Promise<void> {
    this.logger.log(`process ${successor} takes over`);
    // The successor listens at the same path.
    this.stopListening();
    const { lockFd, served } = await this.host.quiesce();
    const given: VolumeId[] = [];
    try {
      channel.send({ kind: 'welcome', exports: served.map((id) => ({ id })) }, [lockFd]);
      this.faultPoints.reach('predecessor.after-welcome');
      if (await this.answerAll(channel, given)) {
        this.logger.log(`handed ${given.length} of ${served.length} exports to process ${successor}`);
        return await this.host.handedOver();
      }
      this.logger.error(`process ${successor} died while it took over; going on`);
    } catch (error) {
      this.logger.error(`the hand-over to process ${successor} failed: ${messageOf(error)}`);
      channel.send({ kind: 'ended', reason: messageOf(error) });
      // What it was given it serves until it ends.
      await channel.gone();
    }
    await this.takeBack(lockFd);
    return this.listen();
  }

  /** Until it works: guests are served meanwhile, and nothing else can be done. */
  private async takeBack(lockFd: number): Promise<void> {
    for (;;) {
      try {
        return await this.host.takeBack(lockFd);
      } catch (error) {
        this.logger.error(`the node does no verbs yet, trying again: ${messageOf(error)}`);
        await sleep(retryMs);
      }
    }
  }

  /** Gives what is asked for; false when the successor dies before it is done. */
  private async answerAll(channel: HandoverChannel, given: VolumeId[]): Promise<boolean> {
    for (;;) {
      const received = await channel.next(idleTimeoutMs);
      if (received === undefined) return false;
      const { message } = received;
      if (message.kind === 'done') return true;
      if (message.kind !== 'take') throw new Error(`it said ${message.kind} when nothing was taken`);
      if (!(await this.give(channel, message.id, given))) return false;
    }
  }

  /** Gives one export, or keeps it; false when the successor dies before it is ready, and the export goes on here. */
  private async give(channel: HandoverChannel, id: VolumeId, given: VolumeId[]): Promise<boolean> {
    const { reactors } = this.host;
    let handed: Handed;
    try {
      handed = await reactors.suspendExport(id, { drainTimeoutMs });
    } catch (error) {
      this.logger.error(`${id} could not be handed over: ${messageOf(error)}`);
      channel.send({ kind: 'kept', id, reason: messageOf(error) });
      return true;
    }
    this.faultPoints.reach('predecessor.after-suspend');
    let answer: Received | undefined;
    try {
      channel.send({ kind: 'state', id, state: handed.state }, handed.fds);
      this.faultPoints.reach('predecessor.after-state');
      answer = await channel.next(answerTimeoutMs);
    } catch (error) {
      await reactors.resumeExport(id);
      throw error;
    }
    if (answer?.message.kind === 'ready' && answer.message.id === id) {
      // From here on only the successor may serve it, whatever happens.
      given.push(id);
      channel.send({ kind: 'yours', id });
      this.faultPoints.reach('predecessor.after-yours');
      await reactors.releaseExport(id);
      return true;
    }
    await reactors.resumeExport(id);
    if (answer?.message.kind !== 'unfit') return false;
    this.logger.error(`the successor could not go on with ${id}: ${answer.message.reason}`);
    return true;
  }
}

const removeIfThere = (path: string): void => {
  try {
    unlinkSync(path);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
};

const messageOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).slice(0, 2000);
