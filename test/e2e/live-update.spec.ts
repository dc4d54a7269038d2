import { readdir, readFile } from 'node:fs/promises';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterEach, describe, expect, it } from 'vitest';
import { NodeLives } from '../support/node-lives.js';
import { RingLoad } from '../support/ring-load.js';

const BLOCKS = 1024;

describe('live update of a data plane', () => {
  let node: NodeLives;
  const disks: FakeBlkDisk[] = [];
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(node?.log ?? '');
    for (const disk of disks.splice(0)) disk.close();
    await node?.stop();
  });

  it('goes on in process after process: same connection, no error, every byte as written', async () => {
    node = await NodeLives.start({ CAIRN_REACTORS: '2' });
    const kinds = [
      { packed: false, numQueues: 2, inflight: true },
      { packed: true, numQueues: 2, inflight: true },
      { packed: true, numQueues: 1, inflight: false },
    ];
    const served = [];
    for (const [seed, kind] of kinds.entries()) {
      const { socketPath, filePath } = await node.addExport(BLOCKS * 4096, kind.numQueues);
      const disk = await FakeBlkDisk.open(socketPath, { ...kind, memorySlots: seed === 1 });
      disks.push(disk);
      served.push({ disk, filePath, load: new RingLoad(disk, { blocks: BLOCKS, depth: 32, seed }) });
    }
    const descriptors = [];
    for (let update = 0; update < 10; update += 1) {
      for (const { load } of served) await load.advance(100);
      const before = node.dataPlane;
      await node.startAnother();
      expect(await before.exited()).toEqual({ code: 0, signal: null });
      expect(node.dataPlane.log).toContain('took over 3 of 3 exports');
      descriptors.push((await readdir(`/proc/${node.dataPlane.pid}/fd`)).length);
    }
    // Whoever kept something from each predecessor would have more each time; a few come and go.
    expect(descriptors.at(-1)! - descriptors[0]!, descriptors.join(' ')).toBeLessThan(5);
    for (const { load, disk, filePath } of served) {
      await load.advance(100);
      await load.finish();
      expect(disk.frontend.stream.isClosed()).toBe(false);
      expect(load.differences(await readFile(filePath))).toEqual([]);
    }
    expect(await node.agent.listExports()).toMatchObject(kinds.map(() => ({ state: 'connected' })));
  });

  it('goes on with what is left of a burst', async () => {
    node = await NodeLives.start();
    const { id, socketPath } = await node.addExport(BLOCKS * 4096);
    const disk = await FakeBlkDisk.open(socketPath, { timeoutMs: 60_000 });
    disks.push(disk);
    const limits = { iops: 20, iopsBurst: 2000, iopsBurstSeconds: 1 };
    await node.agent.putExportLimits(id, { generation: 1, limits });
    const secondsFor = async (requests: number): Promise<number> => {
      const began = performance.now();
      await Promise.all(Array.from({ length: requests }, () => disk.read(0, 4096)));
      return (performance.now() - began) / 1000;
    };
    // More than there is: the last ones wait for their turn at the base rate.
    for (let use = 0; use < 60 && (await secondsFor(100)) < 2; use += 1);
    await node.startAnother();
    expect(node.dataPlane.log).toContain('took over 1 of 1 exports');
    // What came in since is some requests, whereas a full burst would let all of them go at once.
    expect(await secondsFor(60)).toBeGreaterThan(1);
  });
});
