import { afterAll, describe, expect, it } from 'vitest';
import { VolumeImage } from '@cairn/storage';
import { Random } from '../support/random.js';
import { poolPlaces } from '../support/pool-places.js';
import { ServedStore } from '../support/served-store.js';

const MIB = 2 ** 20;
const BLOCK = 4096;
const VOLUMES = 3;
const GROUPS = 20;

const counted = (count: number): Buffer => {
  const block = Buffer.alloc(BLOCK);
  block.writeUInt32LE(count);
  return block;
};

/** A writer stamps one counter over several volumes, one after the other: a moment shows how far it had come. */
describe.each(poolPlaces())('a group snapshot of served volumes on $name', (place) => {
  afterAll(() => place.dispose());

  it.skipIf(place.skipped !== undefined)('shows all of them at one point in time', async () => {
    const served = await ServedStore.open(place.make(), { cache: 'writeback' });
    const random = new Random(1);
    const ids = Array.from({ length: VOLUMES }, (_, i) => `vol-000000000000000${i}`);
    try {
      for (const volumeId of ids) {
        await served.store.create({ volumeId, sizeBytes: 4 * MIB });
        await served.serve(volumeId);
      }
      const disks = await Promise.all(ids.map((id) => served.connect(id)));
      const state = { ended: false, count: 0, noise: 0 };
      const writer = (async () => {
        while (!state.ended) {
          state.count += 1;
          for (const disk of disks) await disk.write(0, counted(state.count));
        }
      })();
      // Others keep the rings busy, so that the volumes never drain at the same time by themselves.
      const noise = disks.flatMap((disk) =>
        Array.from({ length: 4 }, async () => {
          while (!state.ended) {
            const at = BLOCK * (1 + random.below(900));
            await disk.write(at, random.bytes(512 * (1 + random.below(16))), { queue: 1 });
            state.noise += 1;
          }
        }),
      );
      const seen: number[] = [];
      for (let group = 0; group < GROUPS; group += 1) {
        const requests = ids.map((volumeId, i) => ({
          volumeId,
          snapshotId: `snap-${String(group).padStart(15, '0')}${i}`,
        }));
        const before = state.count;
        await served.store.snapshots.take(requests, {
          switchHeads: served.switchHeads,
          group: `group-${group}`,
        });
        const counts: number[] = [];
        for (const { snapshotId } of requests) {
          const image = await VolumeImage.open(served.store.snapshots.chain(snapshotId), { readOnly: true });
          const block = new Uint8Array(BLOCK);
          await image.readAt(0, block);
          await image.close();
          counts.push(Buffer.from(block).readUInt32LE(0));
        }
        for (let i = 1; i < VOLUMES; i += 1) {
          const [earlier, later] = [counts[i - 1]!, counts[i]!];
          expect(earlier - later, `counts ${counts.join(' ')}`).toBeGreaterThanOrEqual(0);
        }
        expect(counts[0]! - counts.at(-1)!, `counts ${counts.join(' ')}`).toBeLessThanOrEqual(1);
        expect(counts[0]!).toBeGreaterThanOrEqual(before - 1);
        seen.push(counts[0]!);
      }
      state.ended = true;
      await Promise.all([writer, ...noise]);
      expect(new Set(seen).size).toBeGreaterThan(GROUPS / 2);
      expect(state.noise).toBeGreaterThan(GROUPS);
      for (const disk of disks) disk.close();
    } finally {
      await served.close();
    }
  });
});
