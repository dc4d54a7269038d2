import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentError } from '@cairn/agent';
import { newId, type VolumeId } from '@cairn/domain';
import { VolumeStore } from '@cairn/storage';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ExportRegistry } from '../exports/export.registry.js';
import { NodeSnapshots } from './node-snapshots.js';

let directory: string;
let store: VolumeStore;
let deleted = 0;
let attached: VolumeId | undefined;
let snapshots: NodeSnapshots;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'cairn-snapshots-'));
  store = await VolumeStore.open({ directory });
  deleted = 0;
  attached = undefined;
  // Only the one verb of the registry that is called; it is tested with the registry itself.
  const exports: Pick<ExportRegistry, 'whileDetached'> = {
    whileDetached: async (ids, task) => {
      if (attached !== undefined && ids.includes(attached)) throw new AgentError('volume-exported', attached);
      return task();
    },
  };
  snapshots = new NodeSnapshots({ pool: store, exports, deleted: () => void (deleted += 1) });
});
afterEach(async () => {
  await store.close();
  await rm(directory, { recursive: true });
});

const volume = async (sizeBytes = 1 << 20) => {
  const volumeId = newId('vol');
  await store.create({ volumeId, sizeBytes });
  return volumeId;
};
const codeOf = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work;
    return 'done';
  } catch (error) {
    if (error instanceof AgentError) return `${error.code} ${error.retryable}`;
    throw error;
  }
};

describe('NodeSnapshots', () => {
  it('takes a group, and finds it taken when it is asked again', async () => {
    const wanted = [await volume(), await volume(2 << 20)].map((volumeId) => ({
      snapshotId: newId('snap'),
      volumeId,
    }));
    const request = { snapshots: wanted, groupId: newId('grp') };
    const expected = wanted.map(({ snapshotId, volumeId }, i) => ({
      id: snapshotId,
      volumeId,
      sizeBytes: (i + 1) << 20,
    }));
    expect(await snapshots.take(request)).toEqual(expected);
    expect(await snapshots.take(request)).toEqual(expected);
    expect(snapshots.list()).toHaveLength(2);
    expect(store.snapshots.list().map(({ group }) => group)).toEqual([request.groupId, request.groupId]);
  });

  it('says by code why it takes none: all or nothing', async () => {
    const [here, snapshotId] = [await volume(), newId('snap')];
    const gone = newId('vol');
    const both = [
      { snapshotId, volumeId: here },
      { snapshotId: newId('snap'), volumeId: gone },
    ];
    expect(await codeOf(snapshots.take({ snapshots: both }))).toBe('volume-not-found false');
    expect(snapshots.list()).toEqual([]);
    attached = here;
    const one = { snapshots: [{ snapshotId, volumeId: here }] };
    expect(await codeOf(snapshots.take(one))).toBe('volume-exported true');
    attached = undefined;
    await snapshots.take(one);
    const other = [{ snapshotId, volumeId: await volume() }];
    expect(await codeOf(snapshots.take({ snapshots: other }))).toBe('snapshot-exists false');
  });

  it('deletes one that is there and one that is not, and has the bytes given back', async () => {
    const snapshotId = newId('snap');
    await snapshots.take({ snapshots: [{ snapshotId, volumeId: await volume() }] });
    await snapshots.delete(snapshotId);
    await snapshots.delete(snapshotId);
    expect(snapshots.list()).toEqual([]);
    expect(deleted).toBe(2);
  });
});
