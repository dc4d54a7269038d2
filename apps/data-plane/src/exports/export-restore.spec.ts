import { writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import { MIB, type VolumeId } from '@cairn/domain';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { codeOf, newer, RegistryRig, request, volumeId } from './testing/registry-rig.js';

let node: RegistryRig;
beforeEach(async () => {
  Logger.overrideLogger(false);
  node = await RegistryRig.make();
});
afterEach(async () => {
  vi.restoreAllMocks();
  await node.remove();
});

describe('restoring the registry', () => {
  it('listens again on everything that was exported', async () => {
    const before = await node.registry.putExport(volumeId, request);
    await node.restart();
    await node.registry.restore();
    expect([...node.reactor.listening]).toEqual([volumeId]);
    expect(await node.registry.listExports()).toEqual([before]);
  });

  it('serves the others when one export cannot be re-opened', async () => {
    const other: VolumeId = 'vol-00000000000000ff';
    await node.registry.putVolume(other, { sizeBytes: MIB });
    await node.registry.putExport(volumeId, request);
    await node.registry.putExport(other, newer);
    await node.pool.delete(volumeId);
    await node.restart();
    await node.registry.restore();
    const states = (await node.registry.listExports()).map((each) => [each.volumeId, each.state] as const);
    expect(new Map(states)).toEqual(
      new Map([
        [other, 'listening'],
        [volumeId, 'error'],
      ]),
    );
  });

  it('removes the socket that a killed process left of an export that is over', async () => {
    const socket = join(node.directory, `${volumeId}.sock`);
    const strangers = join(node.directory, 'vol-00000000000000ff.sock');
    await writeFile(socket, '');
    await writeFile(strangers, '');
    await node.registry.restore();
    expect([existsSync(socket), existsSync(strangers)]).toEqual([false, true]);
  });
});

describe('an export that a predecessor could not hand over', () => {
  it('is left alone until the predecessor has gone, and then opened anew', async () => {
    await node.registry.putExport(volumeId, request);
    node.pool.attached.clear();
    await node.restart();
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    await node.registry.restore({ take: () => Promise.resolve('kept'), gone: () => ended });

    expect(await node.registry.listExports()).toMatchObject([{ state: 'error' }]);
    await expect(node.pool.attached.get(volumeId)!.barrier()).rejects.toThrow('ran before');
    const chain = { volumeId, sizeBytes: MIB, layers: [] };
    await expect(node.registry.switchHeads([{ volumeId, chain }])).rejects.toThrow('ran before');
    expect(await codeOf(node.registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe(
      'volume-busy',
    );
    expect(await codeOf(node.registry.putExport(volumeId, newer))).toBe('volume-busy');
    expect(node.reactor.listened).toEqual([]);

    end();
    await vi.waitFor(async () =>
      expect(await node.registry.listExports()).toMatchObject([{ state: 'listening' }]),
    );
    expect(node.reactor.listened).toEqual([`add ${volumeId}`]);
  });

  it('looks anew at what it is read from after a successor that has died', async () => {
    await node.registry.putExport(volumeId, request);
    node.pool.attached.clear();
    await node.openAnew();
    await node.registry.restore();
    expect(node.reactor.calls).toContain(`change ${volumeId}`);
  });
});
