import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BLOCK_BYTES } from './layer-format.js';
import type { Step } from './steps.js';
import { VolumeImage } from './volume-image.js';
import { VolumeStore } from './volume-store.js';

const MIB = 2 ** 20;
const VOLUMES = ['a', 'b', 'c'].map((letter) => `vol-${letter.repeat(16)}`);
const SNAPSHOTS = VOLUMES.map((_, i) => `snap-000000000000000${i}`);
const ATTACHED = VOLUMES[1]!;
/** Before and after the snapshot. */
const [BEFORE, AFTER] = [7, 8];

/** What a process leaves that dies at a step. */
interface Death {
  step: Step;
  time: number;
  directory: string;
}

const blockOf = async (image: VolumeImage): Promise<number> => {
  const block = new Uint8Array(BLOCK_BYTES);
  await image.readAt(0, block);
  return block[0]!;
};

describe('a pool whose process died while it took a group of snapshots', () => {
  const root = mkdtempSync(join(tmpdir(), 'cairn-recovery-'));
  const deaths: Death[] = [];

  beforeAll(async () => {
    const directory = join(root, 'pool');
    const counts = new Map<Step, number>();
    const onStep = (step: Step): void => {
      if (!step.startsWith('snapshot.')) return;
      const time = (counts.get(step) ?? 0) + 1;
      counts.set(step, time);
      const copy = join(root, `${step}-${time}`);
      // Unlike those of Node.js, this copy keeps holes, and zeroes that are data.
      execFileSync('cp', ['-a', directory, copy]);
      deaths.push({ step, time, directory: copy });
    };
    const store = await VolumeStore.open({ directory, onStep });
    for (const volumeId of VOLUMES) {
      await store.create({ volumeId, sizeBytes: MIB });
      const image = await VolumeImage.open(store.chain(volumeId));
      await image.writeAt(0, new Uint8Array(BLOCK_BYTES).fill(BEFORE));
      await image.close();
    }
    const open: { image?: VolumeImage } = {};
    const chain = await store.attach(ATTACHED, {
      barrier: () => open.image!.barrier(),
      chainChanged: (changed) => open.image!.goOver(changed),
    });
    const image = await VolumeImage.open(chain);
    open.image = image;
    const requests = VOLUMES.map((volumeId, i) => ({ volumeId, snapshotId: SNAPSHOTS[i]! }));
    await store.snapshots.take(requests, {
      group: 'group-1',
      switchHeads: async ([only]) => {
        await image.goOver(only!.chain);
        await image.writeAt(0, new Uint8Array(BLOCK_BYTES).fill(AFTER));
      },
    });
    await image.close();
    await store.detach(ATTACHED);
    await store.close();
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  /** Opens what a death left, as the next process does, and closes it when the check has ended. */
  const after = async <T>({ directory }: Death, check: (store: VolumeStore) => Promise<T>): Promise<T> => {
    const store = await VolumeStore.open({ directory });
    try {
      return await check(store);
    } finally {
      await store.close();
    }
  };

  it('is tried at every step of every member', () => {
    const each = deaths.map(({ step, time }) => `${step} ${time}`);
    const ofMember = ['layer-made', 'pending-written', 'head-named'];
    const prepared = VOLUMES.flatMap((_, i) => ofMember.map((what) => `snapshot.${what} ${i + 1}`));
    const completed = VOLUMES.map((_, i) => `snapshot.completed-one ${i + 1}`);
    expect(each).toEqual([...prepared, 'snapshot.switched 1', ...completed, 'snapshot.completed 1']);
  });

  it('has no snapshot of the group while none was completed, and all of them once one was', async () => {
    for (const death of deaths) {
      const found = await after(death, async (store) => store.snapshots.list().map(({ id }) => id));
      const isPast = death.step.startsWith('snapshot.completed');
      expect([death.step, death.time, found.toSorted()]).toEqual([
        death.step,
        death.time,
        isPast ? SNAPSHOTS : [],
      ]);
    }
  });

  it('shows in each the moment of the switch, and in the volumes what was written since', async () => {
    for (const death of deaths.filter(({ step }) => step.startsWith('snapshot.completed'))) {
      await after(death, async (store) => {
        for (const [i, snapshotId] of SNAPSHOTS.entries()) {
          const snapshot = await VolumeImage.open(store.snapshots.chain(snapshotId), { readOnly: true });
          expect(await blockOf(snapshot)).toBe(BEFORE);
          await snapshot.close();
          const volume = await VolumeImage.open(store.chain(VOLUMES[i]!), { readOnly: true });
          expect(await blockOf(volume)).toBe(VOLUMES[i] === ATTACHED ? AFTER : BEFORE);
          await volume.close();
        }
      });
    }
  });

  it('takes the same group again where it was forgotten, and finds it where it was completed', async () => {
    for (const death of deaths) {
      const requests = VOLUMES.map((volumeId, i) => ({ volumeId, snapshotId: SNAPSHOTS[i]! }));
      await after(death, (store) => store.snapshots.take(requests, { group: 'group-1' }));
      const states = await after(death, async (store) => store.snapshots.list().map(({ state }) => state));
      expect([death.step, states]).toEqual([death.step, SNAPSHOTS.map(() => 'completed')]);
    }
  });
});
