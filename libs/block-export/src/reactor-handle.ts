import type { Worker } from 'node:worker_threads';
import { native } from '@cairn/native';
import type { AnswerMessage, CommandMessage, NoticeMessage, ReactorCommand } from './reactor-protocol.js';

/** One reactor thread, seen from the main thread. */
export class ReactorHandle {
  /** Resolves with the reason when the thread ends by itself. */
  readonly died: Promise<Error>;
  /** Resolves when the thread has ended, in whatever way. */
  readonly ended: Promise<void>;
  /** Exports whose home it is. */
  exports = 0;
  /** The thread as the kernel calls it; 0 before it has started. */
  threadId = 0;
  private readonly waiting = new Map<
    number,
    { resolve: (answer: AnswerMessage) => void; reject: (error: Error) => void }
  >();
  private sequence = 0;
  private dead: Error | undefined;

  constructor(
    worker: Worker,
    private readonly wakeFd: number,
    onNotice: (notice: string) => void,
  ) {
    this.worker = worker;
    this.ended = new Promise((resolve) => worker.once('exit', () => resolve()));
    this.died = new Promise((resolve) => {
      const die = (error: Error): void => {
        this.dead ??= error;
        for (const { reject } of this.waiting.values()) reject(this.dead);
        this.waiting.clear();
        resolve(this.dead);
      };
      worker.on('error', (cause) => die(new Error(`a reactor thread died: ${String(cause)}`, { cause })));
      worker.on('exit', (code) => die(new Error(`a reactor thread has ended (exit code ${code})`)));
    });
    worker.on('message', (answer: AnswerMessage | NoticeMessage) => {
      if ('notice' in answer) return onNotice(answer.notice);
      this.waiting.get(answer.sequence)?.resolve(answer);
      this.waiting.delete(answer.sequence);
      return undefined;
    });
  }

  private readonly worker: Worker;

  /** Why it serves no more; undefined while it does. */
  get death(): Error | undefined {
    return this.dead;
  }

  /** Resolves when the thread serves. */
  async started(): Promise<void> {
    const { threadId } = await this.answerTo(0);
    this.threadId = threadId ?? 0;
  }

  /** Rejects with the reason when the command was not done, or the thread has died. */
  async ask(command: ReactorCommand): Promise<AnswerMessage> {
    this.sequence += 1;
    const answered = this.answerTo(this.sequence);
    const message: CommandMessage = { sequence: this.sequence, command };
    this.worker.postMessage(message);
    native.signal(this.wakeFd);
    const answer = await answered;
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  private answerTo(sequence: number): Promise<AnswerMessage> {
    if (this.dead) return Promise.reject(this.dead);
    return new Promise((resolve, reject) => this.waiting.set(sequence, { resolve, reject }));
  }
}
