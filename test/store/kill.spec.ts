import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { checkPool, STEPS, VolumeImage, VolumeStore } from '@cairn/storage';
import { afterAll, describe, expect, it } from 'vitest';

// A process that takes every verb of the store in turn is killed at each step that any of them has; the same process
// again must come to the same end, with nothing left over. CAIRN_STORE_KILLS=all kills it each time that it comes to a
// step, and not only the first.

const dist = resolve('dist');
const tour = resolve('test/support/store-tour.mjs');
const root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'cairn-kill-'));

const fresh = (): string => mkdtempSync(join(root, 'pool-'));
const goOn = (directory: string): Record<string, number> =>
  JSON.parse(execFileSync(process.execPath, [tour, dist, directory], { encoding: 'utf8' }));

/** What is in a pool, without ids that are random. */
const contentsOf = async (directory: string): Promise<unknown> => {
  const { findings, ...counts } = await checkPool(directory);
  const store = await VolumeStore.open({ directory });
  const digests: string[] = [];
  const ids = [...store.list(), ...store.snapshots.list()].map(({ id }) => id).toSorted();
  for (const id of ids) {
    const chain = id.startsWith('vol') ? store.chain(id) : store.snapshots.chain(id);
    const image = await VolumeImage.open(chain, { readOnly: true });
    const bytes = new Uint8Array(image.sizeBytes);
    await image.readAt(0, bytes);
    await image.close();
    digests.push(`${id} ${bytes.length} ${createHash('sha256').update(bytes).digest('hex')}`);
  }
  const { hiddenBytes } = await store.usage();
  await store.close();
  const files = readdirSync(join(directory, 'layers')).length;
  return { digests, files, hiddenBytes, findings, ...counts, poolId: undefined };
};

describe('a store whose process is killed', () => {
  const reference = fresh();
  const reached = goOn(reference);

  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it('is tried at every step that there is', () => {
    expect(STEPS.filter((step) => !reached[step])).toEqual([]);
  });

  const kills = STEPS.flatMap((step) => {
    const times = process.env['CAIRN_STORE_KILLS'] === 'all' ? (reached[step] ?? 1) : 1;
    return Array.from({ length: times }, (_, i): [string, number] => [step, i + 1]);
  });

  it.each(kills)('at %s, time %i, ends all the same', async (step, n) => {
    const directory = fresh();
    const { signal } = spawnSync(process.execPath, [tour, dist, directory, step, String(n)]);
    expect(signal).toBe('SIGKILL');
    goOn(directory);
    expect(await contentsOf(directory)).toEqual(await contentsOf(reference));
    rmSync(directory, { recursive: true });
  });
});
