import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { NodeLives } from '../support/node-lives.js';
import { RingLoad } from '../support/ring-load.js';
import { type BenchContext, median } from './matrix.js';
import { markdown } from './table.js';

const UPDATES = 10;
const BLOCKS = 1024;
const BLOCK_BYTES = 4096;
const QUEUES = 2;
const EXPORTS = [1, 100];
const LOADS = [
  { title: 'one request at a time', depth: 1 },
  { title: 'depth 32', depth: 32 },
] as const;
/** Little, for the guests that only stay connected. */
const GUEST_MEMORY = [{ gpa: 0, sizeBytes: 512 * 1024 }];

/** How long a guest's disk stands still while one data plane takes over from another. */
export const measureLiveUpdate = async ({ onProgress }: BenchContext): Promise<string> => {
  const rows = [];
  for (const exports of EXPORTS) {
    for (const { title, depth } of LOADS) {
      onProgress(`${exports} exports, ${title}`);
      const { pauses, whole } = await measure(exports, depth);
      const of = (values: readonly number[]): string =>
        `${median(values).toFixed(0)} / ${Math.max(...values).toFixed(0)} ms`;
      rows.push([`${exports}`, title, of(pauses), of(whole)]);
    }
  }
  const heads = ['exports', 'load of one of them', 'pause of its guest', 'start to ready, all exports'];
  return `Median / longest of ${UPDATES} updates in a row.\n\n${markdown([heads, ...rows])}`;
};

const measure = async (
  exports: number,
  depth: number,
): Promise<{ pauses: readonly number[]; whole: readonly number[] }> => {
  const node = await NodeLives.start();
  const disks: FakeBlkDisk[] = [];
  try {
    for (let index = 1; index < exports; index += 1) {
      const { socketPath } = await node.addExport(BLOCKS * BLOCK_BYTES);
      disks.push(await FakeBlkDisk.open(socketPath, { notify: 'call', memory: GUEST_MEMORY }));
    }
    const { socketPath } = await node.addExport(BLOCKS * BLOCK_BYTES, QUEUES);
    const disk = await FakeBlkDisk.open(socketPath, { numQueues: QUEUES });
    disks.push(disk);
    const load = new RingLoad(disk, { blocks: BLOCKS, depth, seed: 1 });
    const pauses = [];
    const whole = [];
    for (let update = 0; update < UPDATES; update += 1) {
      const before = node.dataPlane;
      await load.advance(100);
      load.forgetPause();
      const began = performance.now();
      await node.startAnother();
      whole.push(performance.now() - began);
      await before.exited();
      await load.advance(100);
      pauses.push(load.longestPauseMs);
    }
    await load.finish();
    return { pauses, whole };
  } finally {
    for (const disk of disks) disk.close();
    await node.stop();
  }
};
