import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { newId, type SnapshotId, type VolumeId } from '@cairn/domain';
import { VolumeImage, VolumeStore } from '@cairn/storage';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { describe, expect, it } from 'vitest';
import { LoneNode } from '../support/lone-node.js';
import { Random } from '../support/random.js';
import { checkMoment, type Moment, StampedDisk, stampsOf } from '../support/stamped-disk.js';

const SIZE = 6 * 2 ** 20;
const SECTOR = 512;
const ROUNDS = Number(process.env['CAIRN_CRASH_ROUNDS'] ?? 3);
const SEED = 1;
const PATIENCE_MS = 20_000;

/** A snapshot that was asked for: of which volume, what it may hold, and whether the node said that it is there. */
interface Asked {
  volumeId: VolumeId;
  moment: Moment;
  group: string;
  answered: boolean;
}

describe('a data plane that is killed while it takes snapshots of volumes under load', () => {
  it.each(['writeback', 'direct'])(
    'loses no write and no snapshot that it told of, and has each group whole or not at all, cache %s',
    async (cache) => {
      const random = new Random(SEED);
      const node = await LoneNode.start({ CAIRN_CACHE: cache, CAIRN_REACTORS: '2' });
      const disks = new Map<VolumeId, { disk: StampedDisk; socket: string }>();
      const asked = new Map<SnapshotId, Asked>();
      const state = { answered: 0, dead: false };
      try {
        for (const volumeId of [newId('vol'), newId('vol')]) {
          const socket = await node.attach(volumeId, { sizeBytes: SIZE });
          const front = await FakeBlkDisk.open(socket, { inflight: true, timeoutMs: 120_000 });
          const stamps = new Uint32Array(SIZE / SECTOR);
          disks.set(volumeId, { disk: new StampedDisk(front, new Random(random.u32()), stamps), socket });
        }

        const takeGroup = async (): Promise<void> => {
          const groupId = newId('grp');
          const wanted = [...disks].map(([volumeId, { disk }]) => {
            const snapshotId = newId('snap');
            const one: Asked = { volumeId, moment: disk.beginMoment(), group: groupId, answered: false };
            asked.set(snapshotId, one);
            return { snapshotId, volumeId, one };
          });
          const snapshots = wanted.map(({ snapshotId, volumeId }) => ({ snapshotId, volumeId }));
          await node.agent.takeSnapshots({ snapshots, groupId });
          for (const { volumeId, one } of wanted) {
            one.answered = true;
            disks.get(volumeId)!.disk.endMoment(one.moment);
          }
          state.answered += 1;
        };

        for (let round = 0; round < ROUNDS; round += 1) {
          for (const { disk } of disks.values()) disk.start(8);
          state.dead = false;
          const taking = (async () => {
            while (!state.dead) {
              await takeGroup();
              const [oldest] = asked.keys();
              if (asked.size <= 8 || !oldest) continue;
              asked.delete(oldest);
              await node.agent.deleteSnapshot(oldest);
            }
          })().catch((error: unknown) => {
            if (!state.dead) throw error;
          });
          // After some have been taken, at any moment of the next.
          const enough = state.answered + 1 + random.below(2);
          await expect
            .poll(() => state.answered, { timeout: PATIENCE_MS, interval: 2 })
            .toBeGreaterThanOrEqual(enough);
          await sleep(random.below(400));
          state.dead = true;
          await node.app.kill();
          await taking;
          for (const one of asked.values())
            if (!one.answered) disks.get(one.volumeId)!.disk.endMoment(one.moment);

          const left = await checkSnapshots(join(node.directory, 'pool'), asked);
          for (const id of [...asked.keys()]) if (!left.has(id)) asked.delete(id);

          await node.app.start();
          for (const { disk, socket } of disks.values())
            await disk.disk.reconnect(socket, { patienceMs: 20_000 });
          for (const [id, { disk }] of disks) {
            await disk.stop();
            await disk.verify(`${id} after round ${round}`);
          }
        }
        expect(state.answered).toBeGreaterThanOrEqual(ROUNDS);
      } finally {
        for (const { disk } of disks.values()) disk.disk.close();
        await node.stop();
      }
    },
  );
});

/** Opens the pool of a dead node as the next one would, and checks what it has of the snapshots that were asked for. */
const checkSnapshots = async (
  directory: string,
  asked: ReadonlyMap<SnapshotId, Asked>,
): Promise<Set<string>> => {
  const store = await VolumeStore.open({ directory });
  try {
    const found = new Set(store.snapshots.list().map(({ id }) => id));
    const groups = new Map<string, Set<boolean>>();
    for (const [id, { moment, group, answered }] of asked) {
      if (answered && !found.has(id)) throw new Error(`${id} was told of and is gone`);
      groups.set(group, (groups.get(group) ?? new Set()).add(found.has(id)));
      if (!found.has(id)) continue;
      const image = await VolumeImage.open(store.snapshots.chain(id), { readOnly: true });
      const bytes = new Uint8Array(image.sizeBytes);
      await image.readAt(0, bytes);
      await image.close();
      const stamps = stampsOf(bytes);
      checkMoment(id, stamps, moment);
      moment.before = stamps;
      moment.meanwhile.clear();
    }
    // The oldest group may be half deleted by the test itself.
    const [, ...whole] = [...groups];
    for (const [group, states] of whole) if (states.size > 1) throw new Error(`${group} is there in part`);
    return found;
  } finally {
    await store.close();
  }
};
