import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentClient } from '@cairn/agent';
import { MIB } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { mountSmallTmpfs } from '../support/small-tmpfs.js';
import { emptyNode, Stack } from '../support/stack.js';

describe('starting and stopping a data plane', () => {
  let stack: Stack;

  beforeAll(async () => {
    stack = await Stack.start({ queue: 'postgres' });
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
  });
  afterAll(() => stack?.stop());

  it('refuses a pool that another data plane uses, and leaves that one alone', async () => {
    const volume = await stack.api.createVolume(MIB);
    const other = stack.anotherDataPlane({ CAIRN_STATE_DIR: join(stack.directory, 'state-2') });
    const { code, log } = await other.startAndEnd();
    expect(code).toBe(78);
    expect(log).toContain('refused to start');
    expect(log).toContain('own CAIRN_POOL_DIR');
    await stack.api.deleteVolume(volume.id);
  });

  it('refuses a pool that cannot be written to, with reason and remedy', async () => {
    const file = join(stack.directory, 'a-file');
    await writeFile(file, '');
    for (const directory of [join(file, 'pool'), '/sys/cairn']) {
      const other = stack.anotherDataPlane({
        CAIRN_POOL_DIR: directory,
        CAIRN_STATE_DIR: join(stack.directory, 'state-3'),
      });
      const { code, log } = await other.startAndEnd();
      expect([code, log]).toEqual([78, expect.stringContaining('remedy: ')]);
    }
  });

  it('refuses settings that are wrong, all of them at once', async () => {
    const other = stack.anotherDataPlane({
      CAIRN_AGENT_TOKEN: '',
      CAIRN_CACHE: 'none',
      CAIRN_SOCKET_DIR: `/${'d'.repeat(120)}`,
    });
    const { code, log } = await other.startAndEnd();
    expect(code).toBe(78);
    for (const name of ['CAIRN_AGENT_TOKEN', 'CAIRN_CACHE', 'CAIRN_SOCKET_DIR']) expect(log).toContain(name);
  });

  it('tells what the file system of its pool can do, and warns when that is low on space', async (test) => {
    const small = mountSmallTmpfs(4 * MIB);
    if (typeof small === 'string') return test.skip(small);
    const other = stack.anotherDataPlane({
      CAIRN_POOL_DIR: join(small.path, 'pool'),
      CAIRN_STATE_DIR: join(stack.directory, 'state-6'),
      CAIRN_SOCKET_DIR: join(stack.directory, 's6'),
      CAIRN_CONTROL_PLANE_URL: '',
      CAIRN_LOW_SPACE_PERCENT: '50',
    });
    try {
      await writeFile(join(small.path, 'filler'), Buffer.alloc(3 * MIB));
      await other.start();
      const { url: baseUrl } = JSON.parse(/^ready (.*)$/m.exec(other.log)![1]!);
      const token = other.env['CAIRN_AGENT_TOKEN']!;
      const { pools } = await new AgentClient({ baseUrl, token, timeoutMs: 10_000 }).getNode();
      expect(pools).toEqual([
        expect.objectContaining({
          lowSpace: true,
          fileSystem: expect.objectContaining({ fsync: 'in-memory', reflink: false }),
        }),
      ]);
      expect(other.log).toContain('less than 50 %');
    } finally {
      await other.stop();
      small.unmount();
    }
    return undefined;
  });

  it('refuses an address that is taken', async () => {
    const taken = stack.dataPlane.env['CAIRN_AGENT_PORT']!;
    const other = stack.anotherDataPlane({
      CAIRN_AGENT_PORT: taken,
      CAIRN_POOL_DIR: join(stack.directory, 'pool-4'),
      CAIRN_STATE_DIR: join(stack.directory, 'state-4'),
    });
    const { code, log } = await other.startAndEnd();
    expect([code, log]).toEqual([78, expect.stringContaining(`127.0.0.1:${taken}`)]);
  });

  it('refuses a state directory that belongs to another pool', async () => {
    await stack.dataPlane.stop();
    const other = stack.anotherDataPlane({ CAIRN_POOL_DIR: join(stack.directory, 'pool-5') });
    const { code, log } = await other.startAndEnd();
    expect([code, log]).toEqual([78, expect.stringContaining('node.json belongs to pool')]);
    await stack.dataPlane.start();
  });

  it.each(['{"version":1,', '{"version":99}'])(
    'refuses a state file that reads %j, by name, and serves again once it is put back',
    async (content) => {
      const volume = await stack.api.createVolume(MIB);
      const attachment = await stack.api.attach(volume.id);
      await stack.dataPlane.kill();
      const path = join(stack.stateDirectory, 'volumes', `${volume.id}.json`);
      const whole = await readFile(path);
      await writeFile(path, content);
      const { code, log } = await stack.dataPlane.startAndEnd();
      expect([code, log]).toEqual([78, expect.stringContaining(path)]);
      expect(log).toContain('remedy: ');
      await writeFile(path, whole);
      await stack.dataPlane.start();
      const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
      await disk.write(0, Buffer.alloc(4096, 7));
      await disk.detach();
      await stack.api.detach(attachment);
      await stack.api.deleteVolume(volume.id);
    },
  );

  it('drains on SIGTERM and exits 0: what the guest was told is written is in the file', async () => {
    const volume = await stack.api.createVolume(MIB);
    const attachment = await stack.api.attach(volume.id);
    const disk = await FakeBlkDisk.open(attachment.connection.socketPath);
    const file = await stack.fileOf(volume.id);
    await disk.write(4096, Buffer.alloc(4096, 9));
    expect(await stack.dataPlane.stop()).toEqual({ code: 0, signal: null });
    await expect(disk.write(0, Buffer.alloc(4096))).rejects.toThrow();
    disk.close();
    expect((await readFile(file)).subarray(4096, 8192).equals(Buffer.alloc(4096, 9))).toBe(true);
    await stack.dataPlane.start();
    await stack.api.detach(attachment);
    await stack.api.deleteVolume(volume.id);
  });

  it('reports an export whose file is gone and serves the others', async () => {
    const [lost, kept] = [await stack.api.createVolume(MIB), await stack.api.createVolume(MIB)];
    const attachments = [await stack.api.attach(lost.id), await stack.api.attach(kept.id)] as const;
    await stack.dataPlane.kill();
    const file = await stack.fileOf(lost.id);
    const aside = join(stack.directory, 'aside');
    await mkdir(aside);
    await rename(file, join(aside, 'file'));
    await stack.dataPlane.start();
    const exports = await stack.agent.listExports();
    const states = new Map<string, string>(exports.map(({ volumeId, state }) => [volumeId, state]));
    expect(states).toEqual(
      new Map([
        [lost.id, 'error'],
        [kept.id, 'listening'],
      ]),
    );
    await stack.dataPlane.stop();
    await rename(join(aside, 'file'), file);
    await stack.dataPlane.start();
    for (const attachment of attachments) {
      await stack.api.detach(attachment);
      await stack.api.deleteVolume(attachment.volumeId);
    }
    expect(await stack.nodeContents()).toEqual(emptyNode);
  });
});
