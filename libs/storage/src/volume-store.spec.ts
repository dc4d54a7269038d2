import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { StorageError } from './storage-error.js';
import { VolumeStore } from './volume-store.js';

const MIB = 2 ** 20;
const A = 'vol-aaaaaaaaaaaaaaaa';
const B = 'vol-bbbbbbbbbbbbbbbb';

/** Mounts a small file system of its own, where this process may; else tells why the tests that need one are skipped. */
const mountsRefused = ((): string | undefined => {
  const directory = mkdtempSync(join(tmpdir(), 'cairn-mount-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', 'cairn-test', directory], { stdio: 'pipe' });
    execFileSync('umount', ['-l', directory]);
    return undefined;
  } catch (error) {
    const reason = error instanceof Error ? error.message.trim() : String(error);
    process.stderr.write(`skipped: tests on a full or read-only file system need to mount one: ${reason}\n`);
    return reason;
  } finally {
    rmSync(directory, { recursive: true });
  }
})();

describe('a volume store', () => {
  let root: string;
  let directory: string;
  const open: VolumeStore[] = [];

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'cairn-pool-'));
    directory = join(root, 'pool');
  });
  afterEach(async () => {
    for (const store of open.splice(0)) await store.close();
    rmSync(root, { recursive: true });
  });

  const openStore = async (overcommitRatio?: number, where = directory) => {
    const store = await VolumeStore.open({
      directory: where,
      ...(overcommitRatio !== undefined && { overcommitRatio }),
    });
    open.push(store);
    return store;
  };
  const reopen = async () => {
    for (const store of open.splice(0)) await store.close();
    return openStore();
  };
  const kindOf = async (work: Promise<unknown> | (() => unknown)): Promise<string | undefined> => {
    try {
      await (typeof work === 'function' ? work() : work);
      return undefined;
    } catch (error) {
      if (error instanceof StorageError) return error.kind;
      throw error;
    }
  };
  const layers = (where = directory) =>
    readdirSync(join(where, 'layers')).filter((name) => !name.endsWith('.json'));
  const manifestOf = (volumeId: string, where = directory) => join(where, 'volumes', `${volumeId}.json`);

  describe('making volumes', () => {
    it('makes one sparse file of its size, for its owner alone', async () => {
      const store = await openStore();
      const record = await store.create({ volumeId: A, sizeBytes: 64 * MIB });
      expect(record).toEqual({ id: A, sizeBytes: 64 * MIB, createdAt: expect.any(String) });
      expect(statSync(store.filePath(A))).toMatchObject({ size: 64 * MIB, blocks: 0 });
      expect(statSync(store.filePath(A)).mode & 0o777).toBe(0o600);
      expect(statSync(directory).mode & 0o077).toBe(0);
      expect(await store.allocatedBytes(A)).toBe(0);
    });

    it('tells the same volume again, also after a restart, and makes nothing anew', async () => {
      const store = await openStore();
      const first = await store.create({ volumeId: A, sizeBytes: MIB });
      writeFileSync(store.filePath(A), 'guest data', { flag: 'r+' });
      expect(await store.create({ volumeId: A, sizeBytes: MIB })).toEqual(first);
      const later = await reopen();
      expect(later.poolId).toBe(store.poolId);
      expect(later.list()).toEqual([first]);
      expect(await later.create({ volumeId: A, sizeBytes: MIB })).toEqual(first);
      expect(readFileSync(later.filePath(A)).subarray(0, 10).toString()).toBe('guest data');
      expect(layers()).toHaveLength(1);
    });

    it('makes one volume of many requests at once', async () => {
      const store = await openStore();
      const records = await Promise.all(
        Array.from({ length: 10 }, () => store.create({ volumeId: A, sizeBytes: MIB })),
      );
      expect(new Set(records.map(({ createdAt }) => createdAt)).size).toBe(1);
      expect(layers()).toHaveLength(1);
      expect((await store.capacity()).provisionedBytes).toBe(MIB);
    });

    it('refuses another size for a volume that is there', async () => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      expect(await kindOf(store.create({ volumeId: A, sizeBytes: 2 * MIB }))).toBe('volume-size-mismatch');
      expect(store.find(A)?.sizeBytes).toBe(MIB);
      expect((await store.capacity()).provisionedBytes).toBe(MIB);
    });

    it.each([0, -4096, 512, 4095, MIB + 1, 2 ** 53, Number.NaN, Infinity, 4096.5])(
      'refuses a size of %d bytes',
      async (sizeBytes) => {
        const store = await openStore();
        expect(await kindOf(store.create({ volumeId: A, sizeBytes }))).toBe('invalid-argument');
        expect(layers()).toEqual([]);
      },
    );

    it.each([
      '',
      'vol-',
      '../vol-aaaaaaaaaaaaaaaa',
      '../../etc/passwd',
      'vol-aaaaaaaaaaaaaaaa/../x',
      'vol-AAAAAAAAAAAAAAAA',
      'vol-aaaaaaaaaaaaaaaaaa',
      'vol-aaaaaaaaaaaaaaaa\n',
      'vol-aaaaaaaaaaaaaa\0a',
      '__proto__',
    ])('refuses the id %j, and does nothing for it', async (volumeId) => {
      const store = await openStore();
      const outside = join(root, 'vol-aaaaaaaaaaaaaaaa.json');
      writeFileSync(outside, 'precious');
      expect(await kindOf(store.create({ volumeId, sizeBytes: MIB }))).toBe('invalid-argument');
      expect(store.find(volumeId)).toBeUndefined();
      expect(await kindOf(() => store.filePath(volumeId))).toBe('volume-not-found');
      await store.delete(volumeId);
      expect(readFileSync(outside, 'utf8')).toBe('precious');
      expect(readdirSync(root).toSorted()).toEqual(['pool', 'vol-aaaaaaaaaaaaaaaa.json']);
    });
  });

  describe('deleting volumes', () => {
    it('removes it with its bytes, and does not mind that it is gone', async () => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      await store.delete(A);
      await store.delete(A);
      await store.delete(B);
      expect(store.find(A)).toBeUndefined();
      expect(layers()).toEqual([]);
      expect((await store.capacity()).provisionedBytes).toBe(0);
      expect((await reopen()).list()).toEqual([]);
    });

    it('may be followed by another volume of the same id, which reads as zeroes', async () => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      writeFileSync(store.filePath(A), 'secret', { flag: 'r+' });
      const [, record] = await Promise.all([store.delete(A), store.create({ volumeId: A, sizeBytes: 4096 })]);
      expect(record.sizeBytes).toBe(4096);
      expect(readFileSync(store.filePath(A)).every((byte) => byte === 0)).toBe(true);
    });
  });

  describe('promising space', () => {
    it('refuses what goes over the over-commit ratio, and takes it after a deletion', async () => {
      const { totalBytes } = await (await openStore()).capacity();
      await reopen();
      for (const store of open.splice(0)) await store.close();
      const half = Math.floor(totalBytes / 2 / 4096) * 4096;
      const store = await openStore(0.75);
      await store.create({ volumeId: A, sizeBytes: half });
      expect(await kindOf(store.create({ volumeId: B, sizeBytes: half }))).toBe('pool-full');
      expect((await store.capacity()).provisionedBytes).toBe(half);
      await store.delete(A);
      expect(await kindOf(store.create({ volumeId: B, sizeBytes: half }))).toBeUndefined();
    });

    it('does not give the same space to two volumes at once', async () => {
      const { totalBytes } = await (await openStore()).capacity();
      for (const store of open.splice(0)) await store.close();
      const store = await openStore(0.75);
      const half = Math.floor(totalBytes / 2 / 4096) * 4096;
      const kinds = await Promise.all(
        [A, B].map((volumeId) => kindOf(store.create({ volumeId, sizeBytes: half }))),
      );
      expect(kinds.filter((kind) => kind === undefined).length).toBeLessThanOrEqual(1);
      expect((await store.capacity()).provisionedBytes).toBe(store.list().length * half);
    });
  });

  describe('being opened', () => {
    it('belongs to one store at a time, and to the next after it was closed', async () => {
      const store = await openStore();
      const refused = VolumeStore.open({ directory });
      await expect(refused).rejects.toMatchObject({ kind: 'pool-locked' });
      await expect(refused).rejects.toThrow(`process ${process.pid}`);
      await store.close();
      await openStore();
    });

    it('may be closed twice, and changes nothing afterwards', async () => {
      const store = await openStore();
      await store.close();
      await store.close();
      const next = await openStore();
      expect(await kindOf(store.create({ volumeId: A, sizeBytes: MIB }))).toBe('io');
      expect(await kindOf(store.delete(A))).toBe('io');
      // The second close did not take the lock of whoever came next.
      expect(await kindOf(VolumeStore.open({ directory }))).toBe('pool-locked');
      expect(next.list()).toEqual([]);
    });

    it('removes layers that nobody names and files that were never finished, and nothing else', async () => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      const own = layers();
      const orphan = join(directory, 'layers', 'lay-0123456789abcdef.img');
      const strange = [join(directory, 'layers', 'notes.txt'), join(directory, 'volumes', 'README')];
      const scratch = [
        join(directory, 'probe.tmp-abc'),
        join(directory, 'pool.json.tmp-abc'),
        `${manifestOf(B)}.tmp-abc`,
      ];
      for (const path of [orphan, ...strange, ...scratch]) writeFileSync(path, 'x');
      const later = await reopen();
      expect(later.list().map(({ id }) => id)).toEqual([A]);
      expect(layers().toSorted()).toEqual([...own, 'notes.txt'].toSorted());
      expect(strange.every((path) => existsSync(path))).toBe(true);
      expect(scratch.filter((path) => existsSync(path))).toEqual([]);
    });

    it.each([
      ['torn', 'not JSON', (text: string) => text.slice(0, 40)],
      ['empty', 'not JSON', () => ''],
      ['not an object', 'not an object', () => '[]'],
      ['null', 'not an object', () => 'null'],
      ['edited by hand', 'checksum', (text: string) => text.replace(`${MIB}`, `${2 * MIB}`)],
      [
        'edited at the checksum',
        'checksum',
        (text: string) => text.replace(/"checksum": "./, '"checksum": "z'),
      ],
      [
        'of a newer version',
        'version 3, known is 1 and 2',
        (text: string) => text.replace('"version": 2', '"version": 3'),
      ],
      [
        'without a field',
        "'createdAt' is unknown or missing",
        (text: string) => text.replace(/ *"createdAt".*\n/, ''),
      ],
      [
        'with a field too many',
        "'parent' is unknown",
        (text: string) => text.replace('{', '{"parent": "x",'),
      ],
    ])(
      'refuses a manifest that is %s, serves the others, and removes no layer',
      async (_, reason, damage) => {
        const store = await openStore();
        await store.create({ volumeId: A, sizeBytes: MIB });
        await store.create({ volumeId: B, sizeBytes: MIB });
        const path = manifestOf(A);
        const text = readFileSync(path, 'utf8');
        writeFileSync(path, damage(text));
        const later = await reopen();
        expect(later.list().map(({ id }) => id)).toEqual([B]);
        expect(later.listBroken()).toEqual([{ id: A, reason: expect.stringContaining(reason) }]);
        expect(await kindOf(() => later.find(A))).toBe('manifest-corrupt');
        expect(await kindOf(() => later.filePath(A))).toBe('manifest-corrupt');
        expect(await kindOf(later.delete(A))).toBe('manifest-corrupt');
        expect(await kindOf(later.create({ volumeId: A, sizeBytes: MIB }))).toBe('manifest-corrupt');
        expect(layers()).toHaveLength(2);
        writeFileSync(path, text);
        expect((await reopen()).find(A)?.sizeBytes).toBe(MIB);
      },
    );

    it('refuses a manifest under the name of another volume', async () => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      copyFileSync(manifestOf(A), manifestOf(B));
      const later = await reopen();
      expect(later.find(A)).toBeDefined();
      expect(later.listBroken().map(({ id }) => id)).toEqual([B]);
    });

    it.each([
      ['is missing', 'the layer is missing', (path: string) => rmSync(path)],
      ['was cut', 'it has 4096 bytes', (path: string) => truncateSync(path, 4096)],
    ])('refuses a volume whose layer %s', async (_, reason, damage) => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      damage(store.filePath(A));
      expect((await reopen()).listBroken()).toEqual([{ id: A, reason: expect.stringContaining(reason) }]);
    });

    it.each(['', '{}', '{"version":3,"poolId":"pool-0123456789abcdef"}', '{"version":1,"poolId":"../x"}'])(
      'refuses a pool whose identity reads %j, and gives the lock back',
      async (text) => {
        await openStore();
        for (const store of open.splice(0)) await store.close();
        writeFileSync(join(directory, 'pool.json'), text);
        for (let again = 0; again < 2; again += 1)
          expect(await kindOf(VolumeStore.open({ directory }))).toBe('manifest-corrupt');
      },
    );

    it('refuses a directory whose path leads through a file', async () => {
      writeFileSync(directory, '');
      expect(await kindOf(VolumeStore.open({ directory }))).toBe('io');
    });
  });

  describe.skipIf(mountsRefused !== undefined)('on a file system of its own', () => {
    const filler = () => join(directory, 'filler');
    const fill = () => {
      try {
        writeFileSync(filler(), Buffer.alloc(4 * MIB));
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC');
      }
    };

    beforeEach(() => {
      mkdirSync(directory);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=0700', 'cairn-test', directory]);
    });
    afterEach(async () => {
      for (const store of open.splice(0)) await store.close();
      execFileSync('umount', ['-l', directory]);
    });

    it('refuses to make a new pool where there is no space', async () => {
      fill();
      expect(await kindOf(VolumeStore.open({ directory }))).toBe('pool-full');
      rmSync(filler());
      await openStore();
    });

    it('refuses a volume when its file system is full, and leaves nothing of it', async () => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      const before = layers();
      fill();
      expect(await kindOf(store.create({ volumeId: B, sizeBytes: MIB }))).toBe('pool-full');
      expect(store.find(B)).toBeUndefined();
      expect(layers()).toEqual(before);
      expect(readdirSync(join(directory, 'volumes'))).toEqual([`${A}.json`]);
      expect((await store.capacity()).provisionedBytes).toBe(MIB);
    });

    it('opens a pool that has become full: its guests go on, and deleting makes room', async () => {
      const store = await openStore();
      await store.create({ volumeId: A, sizeBytes: MIB });
      fill();
      const later = await reopen();
      expect(later.poolId).toBe(store.poolId);
      expect(existsSync(later.filePath(A))).toBe(true);
      await later.delete(A);
      expect(later.list()).toEqual([]);
    });

    it('refuses a pool that is mounted read-only, new or known', async () => {
      await openStore();
      for (const store of open.splice(0)) await store.close();
      execFileSync('mount', ['-o', 'remount,ro', directory]);
      expect(await kindOf(VolumeStore.open({ directory }))).toBe('pool-not-writable');
      expect(await kindOf(VolumeStore.open({ directory: join(directory, 'new') }))).toBe('pool-not-writable');
    });
  });
});
