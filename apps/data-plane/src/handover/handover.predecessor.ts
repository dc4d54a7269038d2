// The successor's side of a hand-over; handover.messages.ts draws it.
import { createConnection, type Socket } from 'node:net';
import { Logger } from '@nestjs/common';
import { FdSocket, type Handed } from '@cairn/block-export';
import type { FaultPoints, VolumeId } from '@cairn/domain';
import { StartRefused } from '../start-refused.js';
import { HandoverChannel, type Received } from './handover.channel.js';
import { descriptorSocket, handoverSocket, handoverVersion } from './handover.messages.js';

/** A predecessor drains its verbs before it answers, and an export before it tells its state. */
const answerTimeoutMs = 30_000;

/** What becomes of an export: it goes on here, it has to be opened anew, or the predecessor still has it. */
export type Taken = 'taken' | 'absent' | 'kept';

/** How an export of the predecessor's is taken up. */
export interface Adoption {
  /** Prepares everything and starts nothing. The descriptors are its, also when it rejects. */
  readonly adopt: (handed: Handed) => Promise<void>;
  readonly resume: () => Promise<void>;
  /** Drops what `adopt` made. */
  readonly drop: () => Promise<void>;
}

/** The data plane that runs on this node and gives its exports to this process. */
export class Predecessor {
  private readonly logger = new Logger(Predecessor.name);
  private dead = false;

  private constructor(
    private readonly channel: HandoverChannel,
    /** The pool's lock, which both processes have from now on. */
    readonly lockFd: number,
    private readonly served: ReadonlySet<VolumeId>,
    private readonly faultPoints: FaultPoints,
  ) {}

  /**
   * Asks the data plane that runs with this state directory to hand over; undefined when none does.
   *
   * Throws StartRefused when it refuses; it serves on then.
   */
  static async find(stateDirectory: string, faultPoints: FaultPoints): Promise<Predecessor | undefined> {
    const socket = await connect(handoverSocket(stateDirectory));
    if (!socket) return undefined;
    const offer = FdSocket.offer(descriptorSocket(stateDirectory, process.pid));
    const channel = new HandoverChannel(socket, () => offer.accept());
    try {
      channel.send({ kind: 'hello', version: handoverVersion, pid: process.pid });
      const greeting = await channel.next(answerTimeoutMs);
      if (greeting === undefined) return undefined;
      if (greeting.message.kind === 'refused') {
        throw new StartRefused(
          `the data plane that runs hands nothing over: ${greeting.message.reason}`,
          'it serves on; to start this release all the same, stop that one first, and the guests reconnect',
        );
      }
      if (greeting.message.kind !== 'hello') throw unexpected(greeting);
      await channel.belongsTo(greeting.message.pid);
      const answer = await channel.next(answerTimeoutMs);
      if (answer === undefined) return undefined;
      const { message, fds } = answer;
      const [lockFd] = fds;
      if (message.kind !== 'welcome' || lockFd === undefined) throw unexpected(answer);
      faultPoints.reach('successor.after-welcome');
      const served = new Set(message.exports.map(({ id }) => id));
      return new Predecessor(channel, lockFd, served, faultPoints);
    } finally {
      offer.close();
    }
  }

  /** Takes one export over. Rejects when the predecessor gives up: this process must end then. */
  async take(id: VolumeId, { adopt, resume, drop }: Adoption): Promise<Taken> {
    if (this.dead || !this.served.has(id)) return 'absent';
    this.channel.send({ kind: 'take', id });
    const told = await this.hear();
    if (told === undefined) return 'absent';
    if (told.message.kind === 'kept' && told.message.id === id) return 'kept';
    if (told.message.kind !== 'state' || told.message.id !== id) throw unexpected(told);
    try {
      await adopt({ state: told.message.state, fds: told.fds });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.logger.error(`${id} cannot go on from where the predecessor left it: ${reason}`);
      this.channel.send({ kind: 'unfit', id, reason: reason.slice(0, 2000) });
      return 'kept';
    }
    this.faultPoints.reach('successor.after-adopt');
    this.channel.send({ kind: 'ready', id });
    this.faultPoints.reach('successor.after-ready');
    const answer = await this.hear();
    if (answer === undefined) {
      // It may have gone on with the export before it died: what it told is stale.
      await drop();
      return 'absent';
    }
    if (answer.message.kind !== 'yours' || answer.message.id !== id) throw unexpected(answer);
    await resume();
    this.faultPoints.reach('successor.after-resume');
    return 'taken';
  }

  /** Lets it end. */
  finish(): void {
    this.faultPoints.reach('successor.before-done');
    if (!this.dead) this.channel.send({ kind: 'done' });
  }

  /** Resolves when it is dead, and nothing of what it kept is open or in flight any more. */
  async gone(): Promise<void> {
    await this.channel.gone();
    this.channel.close();
  }

  private async hear(): Promise<Received | undefined> {
    const received = await this.channel.next(answerTimeoutMs);
    if (received?.message.kind === 'ended') throw unexpected(received);
    if (received === undefined) {
      this.dead = true;
      // With the descriptors of a state that has come in part: a listening socket among them would seem to be served.
      this.channel.close();
      this.logger.warn('the predecessor died while it handed over; what it has not handed is opened anew');
    }
    return received;
  }
}

const connect = (path: string): Promise<Socket | undefined> =>
  new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('connect', () => resolve(socket));
    socket.once('error', (error: NodeJS.ErrnoException) => {
      // Nobody has ever listened, or whoever did is dead.
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(undefined);
      else reject(error);
    });
  });

const unexpected = ({ message }: Received): StartRefused =>
  message.kind === 'ended'
    ? new StartRefused(
        `the data plane that runs gave the hand-over up: ${message.reason}`,
        'it serves on; put that right and start this one again',
      )
    : new StartRefused(
        `the data plane that runs said ${message.kind} out of turn`,
        'it serves on when this process has ended; tell the developers',
      );
