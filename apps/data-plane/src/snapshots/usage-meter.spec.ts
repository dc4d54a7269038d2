import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import { newId } from '@cairn/domain';
import { VolumeStore } from '@cairn/storage';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { UsageMeter } from './usage-meter.js';

afterEach(() => void vi.restoreAllMocks());

describe('UsageMeter', () => {
  it('tells what is of one alone and what is of several', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'cairn-usage-'));
    const store = await VolumeStore.open({ directory });
    const [volumeId, snapshotId] = [newId('vol'), newId('snap')];
    await store.create({ volumeId, sizeBytes: 1 << 20 });
    await writeFile(store.filePath(volumeId), Buffer.alloc(8192, 1), { flag: 'r+' });
    await store.snapshots.take([{ volumeId, snapshotId }]);
    await writeFile(store.filePath(volumeId), Buffer.alloc(4096, 2), { flag: 'r+' });
    const meter = new UsageMeter(store, 60_000);
    expect(meter.latest).toEqual({ usage: [] });
    meter.start();
    await vi.waitFor(() => expect(meter.latest.measuredAt).toBeDefined());
    expect(meter.latest.usage).toEqual([
      { id: volumeId, uniqueBytes: 4096, sharedBytes: 4096 },
      { id: snapshotId, uniqueBytes: 4096, sharedBytes: 4096 },
    ]);
    await meter.stop();
    await store.close();
    await rm(directory, { recursive: true });
  });

  it('goes on after a failure, and says once that there is one', async () => {
    const warn = vi.spyOn(Logger.prototype, 'warn').mockReturnValue();
    const log = vi.spyOn(Logger.prototype, 'log').mockReturnValue();
    let turns = 0;
    const usage = async () => {
      turns += 1;
      if (turns < 3) throw new Error('the disk is away');
      return { uniqueBytes: new Map(), sharedBytesOf: new Map() };
    };
    const meter = new UsageMeter({ usage } as unknown as VolumeStore, 1);
    meter.start();
    await vi.waitFor(() => expect(meter.latest.measuredAt).toBeDefined());
    await meter.stop();
    expect(warn.mock.calls).toEqual([['usage is not measured now: the disk is away']]);
    expect(log.mock.calls).toEqual([['usage is measured again']]);
  });
});
