import { setImmediate } from 'node:timers/promises';
import { native } from '@cairn/native';
import type { FakeQueue } from './fake-queue.js';
import { Disconnected } from './message-stream.js';
import { TimedOut } from './poll.js';

interface Waiting {
  deadline: number;
  resolve: (usedBytes: number) => void;
  reject: (error: unknown) => void;
}

/** What the pump must know of the connection. */
export interface PumpOptions {
  timeoutMs: number;
  /** Has the back-end gone for good? Then what waits is rejected. */
  isLost: () => boolean;
}

/** Waits for the chains of several queues at once; it runs while there are any. */
export class CompletionPump {
  private readonly waiting = new Map<FakeQueue, Map<number, Waiting>>();
  private pumping = false;
  private closed = false;

  constructor(private readonly options: PumpOptions) {}

  get timeoutMs(): number {
    return this.options.timeoutMs;
  }

  /** Resolves with the used length when the device gives the chain back. */
  completionOf(queue: FakeQueue, head: number): Promise<number> {
    let chains = this.waiting.get(queue);
    if (!chains) this.waiting.set(queue, (chains = new Map<number, Waiting>()));
    const deadline = performance.now() + this.options.timeoutMs;
    return new Promise((resolve, reject) => {
      chains.set(head, { deadline, resolve, reject });
      this.pump();
    });
  }

  /** Resolves when the queue has so many free descriptors. Throws TimedOut. */
  async roomFor(queue: FakeQueue, descriptors: number): Promise<void> {
    const deadline = performance.now() + this.options.timeoutMs;
    while (queue.ring.freeDescriptors < descriptors) {
      if (performance.now() > deadline) throw new TimedOut('no descriptor became free');
      queue.publish();
      this.pump();
      await setImmediate();
    }
  }

  /** Rejects everything that waits. */
  fail(error: unknown): void {
    for (const chains of this.waiting.values()) {
      for (const { reject } of chains.values()) reject(error);
      chains.clear();
    }
  }

  close(): void {
    this.closed = true;
    this.fail(new Disconnected('this side closed the connection'));
  }

  /** Runs while requests are in flight, and only one at a time. */
  private pump(): void {
    if (this.pumping) return;
    this.pumping = true;
    void this.run()
      .catch((error: unknown) => this.fail(error))
      .finally(() => {
        this.pumping = false;
        if (!this.closed && this.busy()) this.pump();
      });
  }

  private busy(): FakeQueue | undefined {
    for (const [queue, chains] of this.waiting) if (chains.size > 0) return queue;
    return undefined;
  }

  private async run(): Promise<void> {
    for (let busy = this.busy(); busy && !this.closed; busy = this.busy()) {
      let any = false;
      for (const [queue, chains] of this.waiting) {
        const took = queue.reap((head, usedBytes) => {
          const waiting = chains.get(head);
          chains.delete(head);
          waiting?.resolve(usedBytes);
        });
        any ||= took;
      }
      if (!any) {
        native.waitReadable(busy.callFd, busy.notify === 'call' ? 1 : 0);
        if (this.options.isLost()) throw new Disconnected('the back-end closed the connection');
        this.expire();
      }
      await setImmediate();
    }
  }

  private expire(): void {
    const now = performance.now();
    for (const chains of this.waiting.values())
      for (const [head, { deadline, reject }] of chains) {
        if (now < deadline) continue;
        chains.delete(head);
        const { timeoutMs } = this.options;
        reject(new TimedOut(`the back-end did not complete the chain at ${head} within ${timeoutMs} ms`));
      }
  }
}
