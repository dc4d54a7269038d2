import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentError } from '@cairn/agent';
import { newId } from '@cairn/domain';
import { VolumeStore } from '@cairn/storage';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ExportRegistry } from '../exports/export.registry.js';
import { NodeSnapshots } from './node-snapshots.js';

let directory: string;
let store: VolumeStore;
let deleted = 0;
let switched: string[][];
let snapshots: NodeSnapshots;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'cairn-snapshots-'));
  store = await VolumeStore.open({ directory });
  deleted = 0;
  switched = [];
  // Only the one verb of the registry that is called; it is tested with the registry itself.
  const exports: Pick<ExportRegistry, 'switchHeads'> = {
    switchHeads: async (switches) => void switched.push(switches.map(({ volumeId }) => volumeId)),
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
    await snapshots.take({ snapshots: [{ snapshotId, volumeId: here }] });
    const other = [{ snapshotId, volumeId: await volume() }];
    expect(await codeOf(snapshots.take({ snapshots: other }))).toBe('snapshot-exists false');
  });

  it('lets those volumes of a group that are served go over to their new heads', async () => {
    const [idle, served, other] = [await volume(), await volume(), await volume()];
    const live = { barrier: async () => undefined, chainChanged: async () => undefined };
    for (const id of [served, other]) await store.attach(id, live);
    const wanted = [idle, served, other].map((volumeId) => ({ snapshotId: newId('snap'), volumeId }));
    await snapshots.take({ snapshots: wanted, groupId: newId('grp') });
    expect(switched).toEqual([[served, other]]);
    expect(snapshots.list()).toHaveLength(3);
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
