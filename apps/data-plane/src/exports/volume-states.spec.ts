import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { StartRefused } from '../start-refused.js';
import { VolumeStates, type VolumeState } from './volume-states.js';

const volumeId = 'vol-0123456789abcdef';
const state: VolumeState = {
  volumeId,
  generation: 7,
  closedGeneration: 6,
  export: { attachmentId: 'att-0123456789abcdef', readOnly: false, numQueues: 2 },
};

let directory: string;
const path = () => join(directory, 'volumes', `${volumeId}.json`);

/** The refusal of a start over a state file with this content, or `undefined` when it starts. */
const refusalOf = async (content: string | Uint8Array): Promise<StartRefused | undefined> => {
  await mkdir(join(directory, 'volumes'), { recursive: true });
  await writeFile(path(), content);
  try {
    await VolumeStates.open(directory);
    return undefined;
  } catch (error) {
    if (error instanceof StartRefused) return error;
    throw error;
  }
};

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'cairn-states-'));
});
afterEach(() => rm(directory, { recursive: true }));

describe('VolumeStates', () => {
  it('remembers a state across a restart', async () => {
    await (await VolumeStates.open(directory)).put(state);
    expect((await VolumeStates.open(directory)).find(volumeId)).toEqual(state);
  });

  it('forgets volumes that were deleted before the instant, and no others', async () => {
    const other = 'vol-00000000000000ff';
    const states = await VolumeStates.open(directory);
    await states.put({ volumeId, generation: 1, closedGeneration: 1, deletedAt: '2026-01-01T00:00:00.000Z' });
    await states.put({
      volumeId: other,
      generation: 1,
      closedGeneration: 1,
      deletedAt: '2026-03-01T00:00:00.000Z',
    });
    await states.forgetDeletedBefore(new Date('2026-02-01T00:00:00Z'));
    expect((await VolumeStates.open(directory)).list().map((each) => each.volumeId)).toEqual([other]);
  });

  it('refuses a file that was cut at any byte, by name and with a remedy', async () => {
    await (await VolumeStates.open(directory)).put(state);
    const whole = await readFile(path(), 'utf8');
    const end = whole.trimEnd().length;
    for (let length = 0; length < end; length += 1) {
      const refusal = await refusalOf(whole.slice(0, length));
      expect(refusal?.reason, `cut to ${length} bytes`).toContain(path());
      expect(refusal?.remedy).toContain('backup');
    }
    expect(await refusalOf(whole)).toBeUndefined();
  });

  it.each([
    ['garbage', Uint8Array.from([0, 255, 1, 254])],
    ['a list', '[]'],
    ['no version', JSON.stringify(state)],
    ['a text for a generation', JSON.stringify({ version: 1, ...state, generation: '7' })],
    [
      'a generation past 2^53',
      '{"version":1,"volumeId":"vol-0123456789abcdef","generation":18446744073709551615,"closedGeneration":0}',
    ],
    ['a closed generation above the newest', JSON.stringify({ version: 1, ...state, closedGeneration: 8 })],
    ['an unknown field', JSON.stringify({ version: 1, ...state, owner: 'me' })],
    ['another volume', JSON.stringify({ version: 1, ...state, volumeId: 'vol-00000000000000ff' })],
  ])('refuses %s in place of a state', async (_, content) => {
    expect((await refusalOf(content))?.reason).toContain(path());
  });

  it('refuses a file of a version it does not know, and says to start the release that does', async () => {
    const refusal = await refusalOf(JSON.stringify({ version: 2, ...state }));
    expect(refusal?.reason).toContain('version 2');
    expect(refusal?.remedy).toContain('newer');
  });

  it('removes what a crash in the middle of a write left, and keeps the whole file', async () => {
    await (await VolumeStates.open(directory)).put(state);
    await writeFile(`${path()}.tmp-0123456789ab`, '{"version":1,');
    expect((await VolumeStates.open(directory)).list()).toEqual([state]);
    expect(await readdir(join(directory, 'volumes'))).toEqual([`${volumeId}.json`]);
  });

  it('leaves files alone that are not states', async () => {
    await mkdir(join(directory, 'volumes'), { recursive: true });
    await writeFile(join(directory, 'volumes', 'README'), 'not a state');
    expect((await VolumeStates.open(directory)).list()).toEqual([]);
  });
});
