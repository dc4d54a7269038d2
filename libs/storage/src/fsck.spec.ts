import {
  copyFileSync,
  mkdtempSync,
  openSync,
  closeSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkPool, scrubPoolAt } from './fsck.js';
import { VolumeImage } from './volume-image.js';
import { VolumeStore } from './volume-store.js';

const MIB = 2 ** 20;
const A = 'vol-aaaaaaaaaaaaaaaa';
const snap = (n: number) => `snap-${n.toString(16).padStart(16, '0')}`;

describe('checking a pool', () => {
  let directory: string;
  let store: VolumeStore;

  const path = (name: string) => join(directory, name);
  const fill = async (value: number) => {
    const image = await VolumeImage.open(store.chain(A));
    await image.writeAt(0, new Uint8Array(MIB).fill(value));
    await image.close();
  };
  const seen = async () => {
    const { findings } = await checkPool(directory);
    return findings.map(({ severity, where }) => `${severity} ${where}`);
  };
  /** The layers of the volume, head last. */
  const chain = () => store.chain(A).layers.map(({ id }) => id);

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-fsck-'));
    store = await VolumeStore.open({ directory });
    await store.create({ volumeId: A, sizeBytes: MIB });
    await fill(1);
    await store.snapshots.take([{ snapshotId: snap(1), volumeId: A }]);
    await fill(2);
    await store.snapshots.take([{ snapshotId: snap(2), volumeId: A }]);
  });
  afterEach(async () => {
    await store.close();
    rmSync(directory, { recursive: true });
  });

  it('finds nothing in a pool that is well, and changes nothing', async () => {
    await store.close();
    const before = readdirSync(directory, { recursive: true });
    expect(await checkPool(directory, { scrub: true })).toEqual({
      poolId: store.poolId,
      volumes: 1,
      snapshots: 2,
      layers: 3,
      findings: [],
      repaired: false,
    });
    expect(readdirSync(directory, { recursive: true })).toEqual(before);
  });

  it('refuses a pool that is in use, and a directory that is none', async () => {
    await expect(checkPool(directory)).rejects.toMatchObject({ kind: 'pool-locked' });
    await expect(checkPool(tmpdir())).rejects.toMatchObject({ kind: 'manifest-corrupt' });
  });

  it('finds what a crash leaves, and repairs that', async () => {
    await store.close();
    writeFileSync(path('volumes/vol-0.json.tmp-1'), 'x');
    writeFileSync(path('layers/lay-00000000000000ff.img'), 'x');
    writeFileSync(path('notes.txt'), 'x');
    const all = [
      'leftover volumes/vol-0.json.tmp-1',
      'leftover layers/lay-00000000000000ff.img',
      'notice notes.txt',
    ];
    expect((await seen()).toSorted()).toEqual(all.toSorted());
    expect((await checkPool(directory, { repair: true })).repaired).toBe(true);
    expect(await seen()).toEqual(['notice notes.txt']);
  });

  it.each([
    ['a layer file that is missing', (layer: string) => rmSync(path(`layers/${layer}.img`))],
    ['a layer file that was cut', (layer: string) => truncateSync(path(`layers/${layer}.img`), 4096)],
    ['a layer manifest that is missing', (layer: string) => rmSync(path(`layers/${layer}.json`))],
    [
      'a layer manifest that was edited',
      (layer: string) => {
        const text = readFileSync(path(`layers/${layer}.json`), 'utf8');
        writeFileSync(path(`layers/${layer}.json`), text.replace(`${MIB}`, `${2 * MIB}`));
      },
    ],
    [
      'a layer manifest of another layer',
      (layer: string) => copyFileSync(path(`layers/${chain()[2]}.json`), path(`layers/${layer}.json`)),
    ],
  ])('finds %s, names all that needs it, and repairs nothing', async (_, damage) => {
    const [, middle] = chain();
    damage(middle!);
    await store.close();
    writeFileSync(path('layers/lay-00000000000000ff.img'), 'x');
    const { findings, repaired } = await checkPool(directory, { repair: true });
    const damaged = findings.filter(({ severity }) => severity === 'damage').map(({ where }) => where);
    expect(damaged).toEqual(expect.arrayContaining([A, snap(2)]));
    expect(damaged).not.toContain(snap(1));
    expect(repaired).toBe(false);
    store = await VolumeStore.open({ directory });
    // What does not depend on it is served.
    expect(store.snapshots.list().map(({ id }) => id)).toEqual([snap(1)]);
    expect(store.listBroken().map(({ id }) => id)).toEqual([A]);
    expect(readdirSync(path('layers'))).toContain('lay-00000000000000ff.img');
  });

  it('finds layers that are their own ancestors', async () => {
    const [bottom, , head] = chain();
    await store.close();
    // A checksum that is right over a parent that is not: what no crash and no typing error makes.
    const { sealLayer, unsealLayer } = await import('./records.js');
    const file = path(`layers/${bottom}.json`);
    const layer = unsealLayer(readFileSync(file, 'utf8'), bottom!);
    writeFileSync(file, sealLayer({ ...layer, parent: head!, zeroMapOffsetBytes: 2 ** 43 }));
    expect(await seen()).toEqual(expect.arrayContaining([`damage ${A}`, `damage ${snap(1)}`]));
  });

  it('finds a block that has rotted in a layer that was scrubbed before', async () => {
    const first = await store.scrub();
    expect(first).toEqual({ summed: chain().slice(0, 2), sound: [], damaged: [] });
    expect((await store.scrub()).sound).toEqual(chain().slice(0, 2));
    const [bottom] = chain();
    const fd = openSync(path(`layers/${bottom}.img`), 'r+');
    writeSync(fd, 'rot', 8192);
    closeSync(fd);
    const { damaged } = await store.scrub();
    expect(damaged).toEqual([
      { layer: bottom, what: expect.stringContaining('part 0'), readBy: [A, snap(1), snap(2)] },
    ]);
    await store.close();
    const { findings } = await checkPool(directory, { scrub: true });
    expect(findings).toEqual([
      { severity: 'damage', where: bottom, what: expect.stringContaining('part 0') },
    ]);
  });

  it('scrubs a pool that nobody uses, and goes on after a layer whose checksums are refused', async () => {
    await store.close();
    const [bottom, middle] = chain();
    expect(await scrubPoolAt(directory)).toEqual({ summed: [bottom, middle], sound: [], damaged: [] });
    writeFileSync(path(`layers/${bottom}.sum`), 'x');
    const report = await scrubPoolAt(directory);
    expect(report.sound).toEqual([middle]);
    expect(report.damaged).toMatchObject([{ layer: bottom, what: expect.stringContaining('not JSON') }]);
    await expect(scrubPoolAt(tmpdir())).rejects.toMatchObject({ kind: 'manifest-corrupt' });
  });

  it('refuses a volume whose manifest is from before a snapshot: writing to it would change that', async () => {
    const manifest = path(`volumes/${A}.json`);
    copyFileSync(manifest, path('old'));
    await store.snapshots.take([{ snapshotId: snap(3), volumeId: A }]);
    await store.close();
    copyFileSync(path('old'), manifest);
    const { findings } = await checkPool(directory);
    expect(findings).toContainEqual({ severity: 'damage', where: A, what: expect.stringContaining(snap(3)) });
    store = await VolumeStore.open({ directory });
    expect(() => store.chain(A)).toThrow('an old one');
    expect(store.snapshots.list()).toHaveLength(3);
  });

  it('refuses two volumes that have one head, and a head with other layers over it', async () => {
    const B = 'vol-bbbbbbbbbbbbbbbb';
    await store.clones.fromSnapshot({ volumeId: B, snapshotId: snap(2) });
    await store.close();
    const { sealVolume, unsealVolume } = await import('./records.js');
    const [bottom, , head] = chain();
    const edit = (headLayer: string): void => {
      const { volume } = unsealVolume(readFileSync(path(`volumes/${B}.json`), 'utf8'), B);
      writeFileSync(path(`volumes/${B}.json`), sealVolume({ ...volume, headLayer }));
    };
    edit(head!);
    expect(await seen()).toEqual(expect.arrayContaining([`damage ${A}`, `damage ${B}`]));
    edit(bottom!);
    expect(await seen()).toEqual(expect.arrayContaining([`damage ${B}`]));
    expect(await seen()).not.toContain(`damage ${A}`);
  });

  it('makes the checksums of a layer anew after something was folded into it', async () => {
    await store.scrub();
    await store.snapshots.delete(snap(1));
    expect((await store.coalescer.run()).folded).toBe(1);
    expect((await store.scrub()).summed).toEqual(chain().slice(0, 1));
    expect((await store.scrub()).damaged).toEqual([]);
  });
});
