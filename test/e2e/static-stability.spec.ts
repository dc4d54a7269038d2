import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { MIB } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { emptyNode, eventually, queueKinds, Stack } from '../support/stack.js';

describe.each(queueKinds)('a node on its own, queue in %s', (queue) => {
  let stack: Stack;

  beforeAll(async () => {
    stack = await Stack.start({ queue });
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  it('serves on with API, workers, database and queue all down, and re-listens by itself after a kill', async () => {
    const { api, dataPlane, controlPlane, worker, postgres, redis } = stack;
    const sizeBytes = 16 * MIB;
    const volume = await api.createVolume(sizeBytes);
    const attachment = await api.attach(volume.id);
    const { socketPath } = attachment.connection;
    const expected = Buffer.alloc(sizeBytes);
    let writes = 0;
    const guestRuns = { on: true };

    /** A guest that never stops writing, one block after the other. */
    const write = async (disk: FakeBlkDisk): Promise<void> => {
      while (guestRuns.on) {
        const offset = (writes % (sizeBytes / 4096)) * 4096;
        const block = randomBytes(4096);
        await disk.write(offset, block);
        block.copy(expected, offset);
        writes += 1;
      }
      await disk.flush();
    };
    const guest = await FakeBlkDisk.open(socketPath);
    const writing = write(guest);
    const progressed = async (): Promise<void> => {
      const before = writes;
      await eventually('further writes', () => writes >= before + 100);
    };

    await progressed();
    await controlPlane.kill();
    await worker.kill();
    await redis?.shutDown();
    await postgres.shutDown();
    await progressed();
    // Long enough for several heartbeats to fail.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await progressed();
    expect(dataPlane.isRunning).toBe(true);
    guestRuns.on = false;
    await writing;
    guest.close();

    await dataPlane.kill();
    await dataPlane.start();
    expect(dataPlane.log).toContain('re-opened 1 of 1 exports');
    const reconnected = await FakeBlkDisk.open(socketPath);
    expect(Buffer.from(await reconnected.read(0, 1 * MIB)).equals(expected.subarray(0, MIB))).toBe(true);
    guestRuns.on = true;
    const again = write(reconnected);
    await progressed();

    await postgres.bringUp();
    await redis?.bringUp();
    await controlPlane.start();
    await worker.start();
    await stack.nodeReady();
    await progressed();
    guestRuns.on = false;
    await again;
    expect((await readFile(await stack.fileOf(volume.id))).equals(expected)).toBe(true);
    await reconnected.detach();

    expect(await api.attachment(attachment)).toMatchObject({ state: 'attached' });
    await api.detach(attachment);
    await api.deleteVolume(volume.id);
    expect(await stack.nodeContents()).toEqual(emptyNode);
    const outages = dataPlane.log.split('the control plane does not take heartbeats').length - 1;
    expect(outages, 'one line an outage and a start').toBeLessThanOrEqual(4);
  });

  it('lives through a restart of the database under running workers and APIs', async () => {
    const { api, postgres } = stack;
    await postgres.shutDown();
    expect((await api.send('GET', '/v1/volumes')).status).toBe(503);
    await postgres.bringUp();
    await eventually('the API', async () => (await api.send('GET', '/v1/volumes')).status === 200);
    const volume = await api.createVolume(MIB);
    await api.deleteVolume(volume.id);
    expect([stack.worker.isRunning, stack.controlPlane.isRunning]).toEqual([true, true]);
  });

  it.runIf(queue === 'redis')(
    'needs the queue for speed only: with Redis down operations are found by the sweep',
    async () => {
      const { api, redis, worker } = stack;
      await redis?.shutDown();
      const volume = await api.createVolume(MIB);
      const attachment = await api.attach(volume.id);
      await api.detach(attachment);
      await api.deleteVolume(volume.id);
      await redis?.bringUp();
      expect(worker.isRunning).toBe(true);
      const before = performance.now();
      await eventually('a nudge again', async () => {
        const from = performance.now();
        const { id } = await api.createVolume(MIB);
        const tookMs = performance.now() - from;
        await api.deleteVolume(id);
        // A lost nudge is left alone for two seconds before the sweep takes the operation.
        return tookMs < 1500;
      });
      expect(performance.now() - before).toBeLessThan(30_000);
    },
  );
});
