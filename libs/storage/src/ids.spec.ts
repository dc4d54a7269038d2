import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkPool } from './fsck.js';
import { sealLayer, sealVolume } from './records.js';
import { VolumeStore } from './volume-store.js';

const MIB = 2 ** 20;
const createdAt = '2026-01-01T00:00:00.000Z';
const older = {
  pool: 'pool-0123456789abcdef',
  volume: 'vol-0123456789abcdef',
  layer: 'lay-0123456789abcdef',
};
const newer = 'vol-0123456789abcdef0';

describe('a pool from before ids had 17 digits', () => {
  let directory: string;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-ids-'));
    const at = (...path: string[]) => join(directory, ...path);
    for (const folder of ['volumes', 'snapshots', 'layers']) mkdirSync(at(folder));
    writeFileSync(at('pool.json'), JSON.stringify({ version: 1, poolId: older.pool, abilities: null }));
    const { layer: id } = older;
    const file = `${id}.img`;
    const layer = { id, file, parent: null, sizeBytes: MIB, zeroMapOffsetBytes: null, createdAt };
    writeFileSync(at('layers', `${id}.json`), sealLayer(layer));
    writeFileSync(at('layers', file), 'written before');
    truncateSync(at('layers', file), MIB);
    const volume = { id: older.volume, headLayer: id, sizeBytes: MIB, createdAt };
    writeFileSync(at('volumes', `${older.volume}.json`), sealVolume(volume));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('goes on with both, and is not for older releases any more', async () => {
    let store = await VolumeStore.open({ directory });
    expect(store.poolId).toBe(older.pool);
    await store.create({ volumeId: newer, sizeBytes: MIB });
    const [snapshotId, volumeId] = ['snap-0123456789abcdef0', 'vol-fedcba98765432100'];
    await store.snapshots.take([{ snapshotId, volumeId: older.volume }]);
    await store.clones.fromSnapshot({ volumeId, snapshotId });
    await store.close();
    const manifests = readdirSync(join(directory, 'layers')).filter((name) => name.endsWith('.json'));
    expect(manifests.filter((name) => /^lay-[0-9a-f]{17}\.json$/.test(name))).toHaveLength(3);
    expect(manifests).toContain(`${older.layer}.json`);
    expect(JSON.parse(readFileSync(join(directory, 'pool.json'), 'utf8'))).toMatchObject({ version: 2 });

    store = await VolumeStore.open({ directory });
    expect(store.listBroken()).toEqual([]);
    expect(store.list().map(({ id }) => id)).toHaveLength(3);
    const [base] = store.chain(volumeId).layers;
    expect(readFileSync(base!.path, 'utf8').slice(0, 14)).toBe('written before');
    await store.snapshots.delete(snapshotId);
    for (const id of [older.volume, volumeId, newer]) await store.delete(id);
    await store.close();
    expect(readdirSync(join(directory, 'layers'))).toEqual([]);
    expect((await checkPool(directory)).findings).toEqual([]);
  });

  it('names a new pool with 17 digits', async () => {
    const fresh = join(directory, 'fresh');
    const store = await VolumeStore.open({ directory: fresh });
    await store.close();
    expect(store.poolId).toMatch(/^pool-[0-9a-f]{17}$/);
  });
});
