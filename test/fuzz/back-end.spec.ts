import { BLK_FEATURE, bits } from '@cairn/virtio/testing';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeBackEnd } from '../support/back-end.conformance.js';
import { startExport } from '../support/export-process.js';
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

  it('gives its serial of twenty bytes', async () => {
    const disk = await FakeBlkDisk.open(served.sockets[0]!);
    expect(await disk.getId()).toBe('twenty-bytes-serial!');
    await disk.detach();
  });
});
