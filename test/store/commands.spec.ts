import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { VolumeImage, VolumeStore } from '@cairn/storage';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const cli = resolve('dist/apps/cli/src/main.js');
const A = 'vol-aaaaaaaaaaaaaaaa';
const SNAP = 'snap-0000000000000001';
const MIB = 2 ** 20;

const cairn = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8' });
  return { status, stdout, stderr };
};

describe('the commands that check a pool', () => {
  let directory: string;
  const inPool = (name: string) => join(directory, name);

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-commands-'));
    const store = await VolumeStore.open({ directory });
    await store.create({ volumeId: A, sizeBytes: MIB });
    const image = await VolumeImage.open(store.chain(A));
    await image.writeAt(0, new Uint8Array(MIB).fill(7));
    await image.close();
    await store.snapshots.take([{ snapshotId: SNAP, volumeId: A }]);
    await store.close();
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('end with 0 for a pool that is well, and change nothing in it', () => {
    const before = readdirSync(directory, { recursive: true });
    const { status, stdout } = cairn('fsck', directory);
    expect([status, stdout]).toEqual([
      0,
      expect.stringMatching(/1 volumes, 1 snapshots, 2 layers: clean\n$/),
    ]);
    expect(readdirSync(directory, { recursive: true })).toEqual(before);
  });

  it('end with 4 for what a crash left, with 1 when it was removed, and with 0 after that', () => {
    writeFileSync(inPool('layers/lay-00000000000000ff.img'), 'x');
    expect(cairn('fsck', directory)).toMatchObject({
      status: 4,
      stdout: expect.stringContaining('leftover: layers/lay-00000000000000ff.img'),
    });
    const { status, stdout } = cairn('fsck', directory, '--repair', '--json');
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ repaired: true, findings: [{ severity: 'leftover' }] });
    expect(cairn('fsck', directory).status).toBe(0);
  });

  it('end with 4 for damage, and leave it alone', () => {
    const leftover = 'layers/lay-00000000000000ff.img';
    writeFileSync(inPool(leftover), 'x');
    copyFileSync(inPool('pool.json'), inPool(`volumes/${A}.json`));
    const { status, stdout } = cairn('fsck', directory, '--repair');
    expect([status, stdout]).toEqual([4, expect.stringContaining(`damage: ${A}`)]);
    expect(readdirSync(inPool('layers'))).toContain('lay-00000000000000ff.img');
  });

  it('find what a disk has changed since the layer was sealed', () => {
    expect(cairn('scrub', directory, '--rate', '1G')).toMatchObject({
      status: 0,
      stdout: '0 layers are what they were, 1 have checksums now, 0 are damaged\n',
    });
    const [sums] = readdirSync(inPool('layers')).filter((name) => name.endsWith('.sum'));
    const layer = sums!.replace('.sum', '');
    const fd = openSync(inPool(`layers/${layer}.img`), 'r+');
    writeSync(fd, 'rot', 4096);
    closeSync(fd);
    expect(cairn('scrub', directory, '--json').status).toBe(4);
    for (const args of [
      ['scrub', directory],
      ['fsck', directory, '--scrub'],
    ]) {
      const { status, stdout } = cairn(...args);
      expect([status, stdout]).toEqual([
        4,
        expect.stringContaining(`damage: ${layer}: its data is not what it was`),
      ]);
      expect(stdout).toContain(`read by ${A}, ${SNAP}`);
    }
  });

  it('end with 8 for a pool that is in use, and a directory that is none', async () => {
    const store = await VolumeStore.open({ directory });
    for (const command of ['fsck', 'scrub']) {
      const { status, stderr } = cairn(command, directory);
      expect([status, stderr]).toEqual([8, expect.stringContaining(`process ${process.pid}`)]);
    }
    await store.close();
    expect(cairn('fsck', tmpdir())).toMatchObject({ status: 8, stderr: expect.stringContaining('no pool') });
  });

  it('end with 16 when they are used wrongly, and with 0 for help', () => {
    expect(cairn('fsck').status).toBe(16);
    expect(cairn('scrub', directory, '--rate', 'fast').status).toBe(16);
    expect(cairn('fsck', '--help')).toMatchObject({ status: 0, stdout: expect.stringContaining('fsck(8)') });
  });
});
