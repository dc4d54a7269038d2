import { join } from 'node:path';
import { BLK_FEATURE, BLK_STATUS, BLK_TYPE, bits } from '@cairn/virtio/testing';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { scratchDirectory, type StartBackEnd } from '../support/back-end.js';
import { describeBackEnd } from '../support/back-end.conformance.js';
import { dirtyPagesOf } from '../support/dirty-pages.js';
import { resizeExport, startExport } from '../support/export-process.js';
import { serveDisks, type ServedDisks } from '../support/served-disks.js';

describeBackEnd('cairn export', startExport, { mixedIndirect: true, robust: true });

describe('cairn export and its write cache', () => {
  let served: ServedDisks;
  beforeAll(async () => {
    served = await serveDisks(startExport, { sizeBytes: 2 ** 20, serial: 'twenty-bytes-serial!' });
  });
  afterAll(() => served.close());

  it('announces write-back, and is told otherwise', async () => {
    const disk = await FakeBlkDisk.open(served.sockets[0]!);
    expect(disk.has(BLK_FEATURE.CONFIG_WCE)).toBe(true);
    expect(disk.config.writeback).toBe(1);
    await disk.write(0, Buffer.alloc(4096, 1));
    await disk.setWriteback(false);
    expect((await disk.readConfig()).writeback).toBe(0);
    await disk.write(4096, Buffer.alloc(4096, 2));
    await disk.setWriteback(true);
    expect((await disk.readConfig()).writeback).toBe(1);
    await disk.detach();
    expect(served.content().subarray(0, 8192)).toEqual(
      Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(4096, 2)]),
    );
  });

  it('is write-back again for the next front-end', async () => {
    const first = await FakeBlkDisk.open(served.sockets[0]!);
    await first.setWriteback(false);
    first.close();
    const second = await FakeBlkDisk.open(served.sockets[0]!);
    expect(second.config.writeback).toBe(1);
    await second.detach();
  });

  it.each([
    ['FLUSH', bits(BLK_FEATURE.FLUSH)],
    ['CONFIG_WCE', bits(BLK_FEATURE.CONFIG_WCE)],
    ['either', bits(BLK_FEATURE.FLUSH, BLK_FEATURE.CONFIG_WCE)],
  ])('serves a driver that does not take %s', async (_, without) => {
    const disk = await FakeBlkDisk.open(served.sockets[0]!, { without });
    await disk.write(0, Buffer.alloc(4096, 3));
    expect(Buffer.from(await disk.read(0, 4096))).toEqual(Buffer.alloc(4096, 3));
    await disk.detach();
  });

  const modes: [string, bigint, boolean | undefined, boolean][] = [
    ['durable, after the driver turned the cache off', 0n, false, true],
    ['durable, for a driver that takes neither FLUSH nor CONFIG_WCE', bits(9, 11), undefined, true],
    ['in the page cache until a flush', 0n, undefined, false],
    ['in the page cache until a flush, after the cache was off', 0n, true, false],
    ['in the page cache until a flush, for a driver that takes only FLUSH', bits(11), undefined, false],
  ];
  it.each(modes)('completes a write when it is %s', async (_, without, writeback, durable) => {
    const [file] = served.files;
    const disk = await FakeBlkDisk.open(served.sockets[0]!, { without });
    if (writeback === true) await disk.setWriteback(false);
    if (writeback !== undefined) await disk.setWriteback(writeback);
    for (let i = 0; i < 4; i++) await disk.write(i * 65_536, Buffer.alloc(65_536, 1 + i));
    const dirty = dirtyPagesOf(file!);
    if (dirty !== undefined) {
      if (durable) expect(dirty).toBe(0);
      else expect(dirty).toBeGreaterThan(0);
    }
    if (disk.has(BLK_FEATURE.FLUSH)) await disk.flush();
    if (dirty !== undefined) expect(dirtyPagesOf(file!)).toBe(0);
    await disk.detach();
  });

  it('turning it off makes what was written before durable', async () => {
    const disk = await FakeBlkDisk.open(served.sockets[0]!);
    await disk.write(0, Buffer.alloc(65_536, 9));
    await disk.setWriteback(false);
    expect(dirtyPagesOf(served.files[0]!) ?? 0).toBe(0);
    await disk.detach();
  });

  it('gives its serial of twenty bytes', async () => {
    const disk = await FakeBlkDisk.open(served.sockets[0]!);
    expect(await disk.getId()).toBe('twenty-bytes-serial!');
    await disk.detach();
  });
});

describe('cairn resize', () => {
  it('tells the guest, who then writes where the disk has grown', async () => {
    const scratch = scratchDirectory();
    const control = join(scratch.path, 'control');
    const start: StartBackEnd = (options) => startExport({ ...options, args: ['--control', control] });
    const served = await serveDisks(start, { sizeBytes: 2 ** 20 });
    const disk = await FakeBlkDisk.open(served.sockets[0]!);
    await disk.write(0, Buffer.alloc(4096, 1));
    expect((await disk.request({ type: BLK_TYPE.IN, sector: 2048, inBytes: 512 })).status).toBe(
      BLK_STATUS.IOERR,
    );

    await resizeExport(control, 2 ** 21, served.files[0]!);
    await disk.frontend.nextConfigChange();
    expect((await disk.readConfig()).capacitySectors).toBe(2 ** 21 / 512);
    await disk.write(2 ** 21 - 4096, Buffer.alloc(4096, 2));
    await disk.flush();
    const content = served.content();
    expect(content).toHaveLength(2 ** 21);
    expect(content.subarray(0, 4096)).toEqual(Buffer.alloc(4096, 1));
    expect(content.subarray(-4096)).toEqual(Buffer.alloc(4096, 2));
    await expect(resizeExport(control, 2 ** 20, served.files[0]!)).rejects.toThrow();

    await disk.detach();
    expect(await served.backEnd.stop()).toBe(0);
    await served.close();
    scratch.remove();
  });
});
