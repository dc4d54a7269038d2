import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { describe, expect, it } from 'vitest';
import { NodeLives } from '../support/node-lives.js';
import { RingLoad } from '../support/ring-load.js';

const BLOCKS = 1024;
const PATIENCE_MS = 10_000;

const steps = [
  'predecessor.after-welcome',
  'predecessor.after-suspend',
  'predecessor.after-state',
  'predecessor.after-yours',
  'successor.after-welcome',
  'successor.after-adopt',
  'successor.after-ready',
  'successor.after-resume',
  'successor.before-done',
] as const;

describe('a hand-over in which one of the two data planes dies', () => {
  it.each(steps)('leaves every volume with the other one, and no write lost: %s', async (step) => {
    const diesFirst = step.startsWith('predecessor');
    const armed = { CAIRN_FAULT_POINT: step };
    const node = await NodeLives.start(diesFirst ? armed : {});
    const served: { disk: FakeBlkDisk; filePath: string; socketPath: string; load: RingLoad }[] = [];
    try {
      for (const packed of [false, true]) {
        const { socketPath, filePath } = await node.addExport(BLOCKS * 4096);
        const disk = await FakeBlkDisk.open(socketPath, { packed, inflight: true, timeoutMs: 60_000 });
        const load = new RingLoad(disk, { blocks: BLOCKS, depth: 32, seed: served.length });
        served.push({ disk, filePath, socketPath, load });
      }
      const old = node.dataPlane;
      const next = node.another(diesFirst ? { CAIRN_FAULT_POINT: '' } : armed);
      if (diesFirst) {
        await next.start();
        expect(await old.exited()).toEqual({ code: null, signal: 'SIGKILL' });
      } else {
        expect((await next.startAndEnd()).signal).toBe('SIGKILL');
      }
      const survivor = diesFirst ? next : old;
      // Those whose connection went with the dead process have noticed that by then.
      await sleep(500);
      for (const { disk, socketPath, load } of served) {
        if (disk.frontend.stream.isClosed()) await reconnect(disk, socketPath);
        await load.advance(200);
      }
      for (const { load, filePath } of served) {
        await load.finish();
        expect(load.differences(await readFile(filePath))).toEqual([]);
      }
      expect(survivor.isRunning).toBe(true);
      expect((await node.agent.listExports()).map(({ state }) => state)).toEqual(['connected', 'connected']);
    } catch (error) {
      process.stderr.write(node.log);
      throw error;
    } finally {
      for (const { disk } of served) disk.close();
      await node.stop();
    }
  });
});

/** As a front-end does: again and again, until somebody listens. */
const reconnect = async (disk: FakeBlkDisk, socketPath: string): Promise<void> => {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await disk.reconnect(socketPath, { patienceMs: 1000 });
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(100);
    }
  }
};
