import type { VolumeChain } from '@cairn/storage';
import { describe, expect, it } from 'vitest';
import { ChainChanges } from './chain-changes.js';
import type { AnswerMessage, ReactorCommand } from './reactor-protocol.js';

const chainOf = (volumeId: string): VolumeChain => ({ volumeId, sizeBytes: 4096, layers: [] });
const switchesOf = (...ids: string[]) => ids.map((volumeId) => ({ volumeId, chain: chainOf(volumeId) }));

/** Homes that note what they are asked; `answer` decides what comes of it. */
const changesOf = (answer: (said: string) => Promise<void> = async () => undefined) => {
  const said: string[] = [];
  const ask = async (id: string, command: ReactorCommand): Promise<AnswerMessage> => {
    const goOver = command.kind === 'thaw' ? ` ${command.goOver ? 'over' : 'back'}` : '';
    said.push(`${command.kind}${goOver} ${id}`);
    await answer(said.at(-1)!);
    const stood = { frozenMicros: id === 'b' ? 20 : 10, flushMicros: 5 };
    return { sequence: 1, ...(command.kind === 'thaw' && { stood }) };
  };
  return { said, changes: new ChainChanges({ ask }) };
};

describe('a change of several chains', () => {
  it('lets none go over before all are frozen, and none go on before', async () => {
    const { said, changes } = changesOf();
    expect(await changes.goOver(switchesOf('a', 'b'))).toEqual({ frozenMicros: 20, flushMicros: 5 });
    expect(said).toEqual([
      'prepare-chain a',
      'prepare-chain b',
      'freeze a',
      'freeze b',
      'thaw over a',
      'thaw over b',
    ]);
  });

  it.each(['prepare-chain b', 'freeze b'])('is taken back by all when one fails: %s', async (failing) => {
    const { said, changes } = changesOf(async (what) => {
      if (what === failing) throw new Error('no space left');
    });
    await expect(changes.goOver(switchesOf('a', 'b'))).rejects.toThrow('no space left');
    expect(said.filter((what) => what.startsWith('thaw'))).toEqual(['thaw back a', 'thaw back b']);
  });

  it('is taken back when one does not drain in time', async () => {
    const { said, changes } = changesOf((what) =>
      what === 'freeze b' ? new Promise(() => undefined) : Promise.resolve(),
    );
    await expect(changes.goOver(switchesOf('a', 'b'), { freezeTimeoutMs: 20 })).rejects.toThrow(
      'did not end within 20 ms',
    );
    expect(said.slice(-2)).toEqual(['thaw back a', 'thaw back b']);
  });

  it('waits for another change of one of them, and not for one of others', async () => {
    let open = (): void => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    const { said, changes } = changesOf((what) => (what === 'freeze a' ? gate : Promise.resolve()));
    const first = changes.goOver(switchesOf('a', 'b'));
    const second = changes.goOver(switchesOf('b'));
    await changes.goOver(switchesOf('c'));
    expect(said.filter((what) => what.endsWith(' b'))).toEqual(['prepare-chain b', 'freeze b']);
    open();
    await Promise.all([first, second]);
    expect(said.filter((what) => what === 'thaw over b')).toHaveLength(2);
  });
});
