import { setTimeout } from 'node:timers/promises';
import { Disconnected, FakeBlkDisk } from '@cairn/vhost-user/testing';
import { describe, expect, it } from 'vitest';
import { startExport } from '../support/export-process.js';
import { Random } from '../support/random.js';
import { serveDisks } from '../support/served-disks.js';

const BLOCK = 4096;
const BLOCKS = 512;

/** Every value a block may hold: the last one acknowledged, and those sent after it. */
class Ledger {
  private readonly possible = Array.from({ length: BLOCKS }, () => [0]);

  sent(block: number, value: number): void {
    this.possible[block]!.push(value);
  }

  acknowledged(block: number, value: number): void {
    const values = this.possible[block]!;
    this.possible[block] = values.slice(values.indexOf(value));
  }

  check(content: Buffer): void {
    for (let block = 0; block < BLOCKS; block++) {
      const value = content.readUInt32LE(block * BLOCK);
      expect(this.possible[block], `block ${block} holds ${value}`).toContain(value);
      const whole = Buffer.alloc(BLOCK);
      for (let at = 0; at < BLOCK; at += 4) whole.writeUInt32LE(value, at);
      expect(
        content.subarray(block * BLOCK, (block + 1) * BLOCK).equals(whole),
        `block ${block} is whole`,
      ).toBe(true);
      this.possible[block] = [value];
    }
  }
}

const filled = (value: number): Buffer => {
  const bytes = Buffer.alloc(BLOCK);
  for (let at = 0; at < BLOCK; at += 4) bytes.writeUInt32LE(value, at);
  return bytes;
};

describe('cairn export under kill -9', () => {
  it.each(['writeback', 'direct'] as const)('loses no acknowledged write: --cache %s', async (cache) => {
    const served = await serveDisks(startExport, { sizeBytes: BLOCK * BLOCKS, numQueues: 2, cache });
    const random = new Random(cache === 'direct' ? 11 : 7);
    const ledger = new Ledger();
    let value = 0;
    let acknowledged = 0;

    for (let round = 0; round < 5; round++) {
      const disk = await FakeBlkDisk.open(served.sockets[0]!, { numQueues: 2 });
      // Each writer has blocks of its own, so that what it was last told about a block is the last about it.
      const writers = Array.from({ length: 16 }, async (_, writer) => {
        for (;;) {
          const block = writer + 16 * random.below(BLOCKS / 16);
          const mine = ++value;
          ledger.sent(block, mine);
          await disk.write(block * BLOCK, filled(mine), { queue: writer & 1 });
          if (random.chance(0.1)) await disk.flush({ queue: writer & 1 });
          ledger.acknowledged(block, mine);
          acknowledged++;
        }
      });
      const ends = Promise.allSettled(writers);
      await setTimeout(30 + random.below(150));
      await served.backEnd.kill();
      for (const end of await ends)
        expect(end).toMatchObject({ status: 'rejected', reason: expect.any(Disconnected) });
      disk.close();
      ledger.check(served.content());
      await served.restart();
    }

    expect(acknowledged).toBeGreaterThan(100);
    const disk = await FakeBlkDisk.open(served.sockets[0]!);
    const content = Buffer.concat(
      await Promise.all(Array.from({ length: BLOCKS / 16 }, (_, i) => disk.read(i * 16 * BLOCK, 16 * BLOCK))),
    );
    ledger.check(content);
    await disk.detach();
    expect(await served.backEnd.stop()).toBe(0);
    await served.close();
  });

  it('lets a front-end keep its rings and go on where the dead process stopped taking', async () => {
    const served = await serveDisks(startExport, { sizeBytes: BLOCK * BLOCKS });
    const disk = await FakeBlkDisk.open(served.sockets[0]!);
    for (let i = 0; i < 10; i++) await disk.write(i * BLOCK, filled(i + 1));
    await served.backEnd.kill();
    await served.restart();
    await disk.reconnect(served.sockets[0]!);
    for (let i = 10; i < 20; i++) await disk.write(i * BLOCK, filled(i + 1));
    for (let i = 0; i < 20; i++)
      expect(Buffer.from(await disk.read(i * BLOCK, BLOCK)).equals(filled(i + 1))).toBe(true);
    await disk.detach();
    await served.close();
  });
});
