import type { HeadSwitch } from '@cairn/storage';
import type { AnswerMessage, ReactorCommand } from './reactor-protocol.js';
import type { StandStill } from './served-files.js';

/** How long requests in flight, and the flush after them, may keep rings waiting before a change is taken back. */
const DEFAULT_FREEZE_MS = 5000;

/** Exports as a change of chains sees them. */
export interface ChangingExports {
  /** Asks an export's home. Rejects with the reason; one that is not served, or not any more, has nothing to do. */
  ask(id: string, command: ReactorCommand): Promise<AnswerMessage | undefined>;
}

/** Moves exports to other chains while they serve, several at one point in time. */
export class ChainChanges {
  private readonly turns = new Map<string, Promise<unknown>>();

  constructor(private readonly exports: ChangingExports) {}

  /**
   * Lets exports go over to other chains at one point in time: none takes a request, nothing is in flight, what was
   * written is durable, they go over, they go on. Those that are not served have nothing to go over.
   *
   * Rejects when one cannot be opened, made durable, or drained in time; then all stay where they are. Tells how long the
   * one stood still that did so longest.
   */
  goOver(switches: readonly HeadSwitch[], options: { freezeTimeoutMs?: number } = {}): Promise<StandStill> {
    const ids = switches.map(({ volumeId }) => volumeId);
    return this.inTurn(ids, async () => {
      try {
        await this.all(switches, ({ volumeId, chain }) => ({ kind: 'prepare-chain', id: volumeId, chain }));
        await within(
          options.freezeTimeoutMs ?? DEFAULT_FREEZE_MS,
          this.all(switches, ({ volumeId }) => ({ kind: 'freeze', id: volumeId })),
        );
      } catch (error) {
        await this.all(switches, ({ volumeId }) => ({ kind: 'thaw', id: volumeId, goOver: false }));
        throw error;
      }
      const thawed = await this.all(switches, ({ volumeId }) => ({
        kind: 'thaw',
        id: volumeId,
        goOver: true,
      }));
      return thawed.reduce(longer, { frozenMicros: 0, flushMicros: 0 });
    });
  }

  /** Runs what may not meet a change of these exports. */
  inTurn<T>(ids: readonly string[], work: () => Promise<T>): Promise<T> {
    const before = ids.map((id) => this.turns.get(id) ?? Promise.resolve());
    const result = Promise.allSettled(before).then(work);
    const forget = (): void => {
      for (const id of ids) if (this.turns.get(id) === result) this.turns.delete(id);
    };
    for (const id of ids) this.turns.set(id, result);
    result.then(forget, forget);
    return result;
  }

  /** Asks all of them at once, and waits for all, also when one has failed. */
  private async all(
    switches: readonly HeadSwitch[],
    commandOf: (one: HeadSwitch) => ReactorCommand,
  ): Promise<(AnswerMessage | undefined)[]> {
    const answers = await Promise.allSettled(
      switches.map((one) => this.exports.ask(one.volumeId, commandOf(one))),
    );
    return answers.map((answer) => {
      if (answer.status === 'rejected') throw answer.reason;
      return answer.value;
    });
  }
}

const longer = (before: StandStill, answer: AnswerMessage | undefined): StandStill =>
  answer?.stood && answer.stood.frozenMicros > before.frozenMicros ? answer.stood : before;

const within = async (timeoutMs: number, work: Promise<unknown>): Promise<void> => {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    const late = (): void => reject(new Error(`requests in flight did not end within ${timeoutMs} ms`));
    timer = setTimeout(late, timeoutMs);
  });
  try {
    await Promise.race([work, deadline]);
  } finally {
    clearTimeout(timer);
  }
};
