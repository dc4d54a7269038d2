import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { hasNoBarriers } from './pool-probe.js';
import { VolumeStore } from './volume-store.js';

const mounts = (options: string): string =>
  [
    '21 1 0:19 / /proc rw - proc proc rw',
    `36 35 254:1 / /srv rw,noatime master:1 - ext4 /dev/vda1 ${options}`,
    '',
  ].join('\n');
const device = (major: number, minor: number): number =>
  (minor % 256) + major * 256 + Math.floor(minor / 256) * 2 ** 20;

describe('what an fsync is worth', () => {
  it.each([
    ['rw,nobarrier', device(254, 1), true],
    ['rw,barrier=0', device(254, 1), true],
    ['rw,barrier=1', device(254, 1), false],
    ['rw', device(254, 1), false],
    ['rw,nobarrier', device(254, 257), false],
    ['rw,nobarrier', device(8, 1), false],
  ])('is seen in the options %s of the mount of device %i: %s', (options, dev, expected) => {
    expect(hasNoBarriers(mounts(options), dev)).toBe(expected);
  });

  it.skipIf(!existsSync('/dev/shm'))('is nothing in memory, and the pool file says so', async () => {
    const directory = mkdtempSync('/dev/shm/cairn-probe-');
    const store = await VolumeStore.open({ directory });
    expect(store.abilities).toMatchObject({ fsync: 'in-memory', reflink: false });
    await store.close();
    const { abilities } = JSON.parse(readFileSync(join(directory, 'pool.json'), 'utf8'));
    expect(abilities).toEqual(store.abilities);
    rmSync(directory, { recursive: true });
  });

  it('is looked at anew in a pool of an older version, which says nothing of it', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'cairn-probe-'));
    const first = await VolumeStore.open({ directory });
    await first.close();
    const path = join(directory, 'pool.json');
    const { fsync: _, ...older } = first.abilities;
    writeFileSync(path, JSON.stringify({ version: 1, poolId: first.poolId, abilities: older }));
    const again = await VolumeStore.open({ directory });
    await again.close();
    expect([again.poolId, again.abilities]).toEqual([first.poolId, first.abilities]);
    expect(JSON.parse(readFileSync(path, 'utf8'))).toMatchObject({ version: 2, abilities: first.abilities });
    rmSync(directory, { recursive: true });
  });
});
