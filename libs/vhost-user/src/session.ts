import { Connection } from './connection.js';
import { Exchange } from './exchange.js';
import { FrontEnd } from './front-end.js';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
import type { MessageRule, RequestCode } from './message-table.js';
import type { Message } from './messages.js';
import type { Serving, StoppedChange } from './verb.js';
import { verbs } from './verbs.js';
import type { VhostUserBackend } from './vhost-user-backend.js';
import { VhostUserError } from './vhost-user-error.js';

// One front-end, from its first message to its last. The order in which things end is the rule here:
//
//   stop rings → in-flight requests complete → views end → memory is unmapped → descriptors close
//
// A step that must wait for requests in flight makes the session deaf until it is done; messages wait in the socket.

/** Messages handled in one go, so that a front-end that never stops talking does not hold the thread. */
const MESSAGES_AT_ONCE = 32;

/** What a session tells whoever has it. */
export interface SessionEvents {
  /** Called once, when everything of this front-end is released. */
  onClosed: (reason: VhostUserError | undefined) => void;
  /** `onReadable` left messages in the socket and is to be called again, after others had their turn. */
  onMore: () => void;
}

/** Serves one front-end's connection; `onReadable` is called when its socket has something to say. */
export class Session {
  private readonly frontEnd: FrontEnd;
  private readonly serving: Serving;
  private waiting = false;
  private closing = false;
  /** Set while a successor may take over: nothing is heard, no ring is started. */
  private suspension: { done: () => void } | undefined;

  private constructor(
    connection: Connection,
    backend: VhostUserBackend,
    private readonly events: SessionEvents,
  ) {
    this.frontEnd = new FrontEnd(connection, backend);
    this.serving = {
      frontEnd: this.frontEnd,
      wait: (begin) => this.wait(begin),
      whileStopped: (exchange, change) => this.whileStopped(exchange, change),
    };
  }

  /** A front-end that has just connected; owns the socket from now on. */
  static begin(fd: number, backend: VhostUserBackend, events: SessionEvents): Session {
    return new Session(new Connection(fd), backend, events);
  }

  get fd(): number {
    return this.frontEnd.connection.fd;
  }

  /** Has the front-end taken away memory that it shared? */
  get memoryFaulted(): boolean {
    return this.frontEnd.memoryFaulted;
  }

  /** Handles the messages that are there. Never throws: a front-end that breaks the protocol is disconnected. */
  onReadable(): void {
    try {
      for (let handled = 0; !this.waiting && !this.closing && !this.suspension; handled += 1) {
        if (handled === MESSAGES_AT_ONCE) return this.events.onMore();
        const next = this.frontEnd.connection.next();
        if (next === undefined) return;
        if (next === 'closed') {
          this.close();
          return;
        }
        this.handle(next.message, next.rule);
      }
    } catch (error) {
      this.fail(error);
    }
  }

  /** Stops every ring, waits for what is in flight, releases everything, calls `onClosed`. Idempotent. */
  close(reason?: VhostUserError): void {
    if (this.closing) return;
    this.closing = true;
    this.frontEnd.rings.stopAll(() => {
      this.frontEnd.release();
      this.events.onClosed(reason);
    });
  }

  /** Tells the driver that the configuration space has changed; false when the front-end takes no such message. */
  notifyConfigChange(): boolean {
    return !this.closing && this.frontEnd.notifyConfigChange();
  }

  /**
   * Calls `done` when nothing of this front-end is going on any more: its message is answered, its rings have stopped.
   * From then on `state` tells all, until `resume`. Not called when the session closes first, or `resume` comes first.
   */
  suspend(done: () => void): void {
    this.suspension = { done };
    if (!this.waiting && !this.closing) this.standStill();
  }

  /** Goes on after `suspend`, as far as that had come, or after `adopt`; what is in the socket is for `onReadable`. */
  resume(): void {
    this.suspension = undefined;
    this.goOn();
  }

  /** Everything that a successor needs to go on with this front-end, once `suspend` is done; the descriptors stay ours. */
  state(list: FdList): HandedValue {
    return this.frontEnd.state(list);
  }

  /**
   * Takes over a predecessor's front-end; it stands still until `resume`. `events` are those of the constructor.
   *
   * Throws HandedStateError or VhostUserError when the state is not one that this version can go on from; then nothing
   * of it is left but what is in the bag.
   */
  static adopt(reader: HandedReader, backend: VhostUserBackend, events: SessionEvents): Session {
    const connection = Connection.adopt(reader.object('connection'));
    let adopted = false;
    const onClosed = (reason: VhostUserError | undefined): void => {
      if (adopted) events.onClosed(reason);
    };
    const session = new Session(connection, backend, { ...events, onClosed });
    session.suspension = { done: () => undefined };
    try {
      session.frontEnd.adopt(reader);
    } catch (error) {
      session.close();
      throw error;
    }
    adopted = true;
    return session;
  }

  private standStill(): void {
    const { suspension } = this;
    const stopped = (): void => {
      if (this.closing) return;
      if (this.suspension === suspension) suspension?.done();
      else if (!this.suspension) this.goOn();
    };
    this.frontEnd.rings.stopAll(stopped, { resumes: true });
  }

  private goOn(): void {
    if (this.closing) return;
    try {
      this.frontEnd.rings.startAll();
    } catch (error) {
      this.fail(error);
    }
  }

  private fail(error: unknown): void {
    // Anything else is our own fault (or the host's); it costs this connection all the same, not the process.
    const known = error instanceof VhostUserError;
    this.close(known ? error : new VhostUserError('internal', { message: String(error) }, { cause: error }));
  }

  private handle(message: Message, rule: MessageRule): void {
    const exchange = new Exchange(this.frontEnd, message, rule);
    const verb = verbs[message.code as RequestCode];
    exchange.run(() => verb(this.serving, exchange));
  }

  private whileStopped(exchange: Exchange, { change, alone, settled, answer }: StoppedChange): void {
    const { rings, backend } = this.frontEnd;
    this.wait((resume) => {
      const stopped = (): void => {
        if (!this.closing) change();
        settled?.();
        resume(() => {
          rings.startAll();
          if (answer) answer();
          else exchange.acknowledge();
        });
      };
      const stop = (): void => {
        if (this.closing) stopped();
        else rings.stopAll(stopped, { resumes: true });
      };
      if (alone) backend.whenAlone(stop);
      else stop();
    });
  }

  private wait(begin: (resume: (then: () => void) => void) => void): void {
    this.waiting = true;
    let atOnce = true;
    begin((then) => {
      this.waiting = false;
      if (this.closing) return;
      if (atOnce) return then();
      try {
        then();
      } catch (error) {
        return this.fail(error);
      }
      return this.suspension ? this.standStill() : this.onReadable();
    });
    atOnce = false;
  }
}
