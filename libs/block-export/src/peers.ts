import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { native } from '@cairn/native';

/** What one reactor thread says to another: a request, or the answer to one. */
type Envelope<Request> =
  | { kind: 'request'; sequence: number; request: Request }
  | { kind: 'answer'; sequence: number; value: number };

/** Another reactor thread: the port to it and the eventfd that wakes it. */
export interface PeerEnd {
  port: MessagePort;
  wakeFd: number;
}

/** Messages between reactor threads. Each answer is one number; requests to one peer are handled in order. */
export class Peers<Request> {
  private readonly waiting = new Map<number, (value: number) => void>();
  private sequence = 0;

  /** `ends[self]` is undefined; requests to oneself are handled at once by `handle`. */
  constructor(
    readonly self: number,
    private readonly ends: readonly (PeerEnd | undefined)[],
    private readonly handle: (request: Request, answer: (value: number) => void) => void,
  ) {}

  get count(): number {
    return this.ends.length;
  }

  /** Asks a reactor; `done` may be called at once when it is this one. */
  ask(reactor: number, request: Request, done: (value: number) => void): void {
    const end = this.ends[reactor];
    if (!end) return this.handle(request, done);
    this.sequence += 1;
    this.waiting.set(this.sequence, done);
    return this.send(end, { kind: 'request', sequence: this.sequence, request });
  }

  /** Handles everything that has come; to be called when this thread was woken. */
  receive(): void {
    for (const end of this.ends) {
      if (!end) continue;
      for (let next = receiveMessageOnPort(end.port); next; next = receiveMessageOnPort(end.port)) {
        this.received(end, next.message as Envelope<Request>);
      }
    }
  }

  /** Makes every other thread look around, as when something happened that only they can act on. */
  wakeAll(): void {
    for (const end of this.ends) if (end) native.signal(end.wakeFd);
  }

  close(): void {
    for (const end of this.ends) end?.port.close();
  }

  private received(end: PeerEnd, envelope: Envelope<Request>): void {
    const { sequence } = envelope;
    if (envelope.kind === 'request') {
      this.handle(envelope.request, (value) => this.send(end, { kind: 'answer', sequence, value }));
      return;
    }
    const done = this.waiting.get(sequence);
    this.waiting.delete(sequence);
    done?.(envelope.value);
  }

  private send(end: PeerEnd, envelope: Envelope<Request>): void {
    end.port.postMessage(envelope);
    native.signal(end.wakeFd);
  }
}
