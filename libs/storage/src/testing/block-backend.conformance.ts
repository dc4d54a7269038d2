import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../block-backend.js';
import { MemoryBackend } from './memory.backend.js';
import { seeded } from './random.js';

/** A back-end under test, and what to do when the test is over. It reads as `initial`, or as zeroes. */
export interface BackendUnderTest {
  backend: BlockBackend;
  initial?: Uint8Array;
  dispose?: () => Promise<void> | void;
}

const SECTOR = 512;
const BLOCK = 4096;

/** What every BlockBackend must do, run against one. `make` gives volumes of at least 1 MiB. */
export function describeBlockBackend(name: string, make: () => Promise<BackendUnderTest>): void {
  describe(`${name} as a block back-end`, () => {
    let made: BackendUnderTest;
    let backend: BlockBackend;
    let model: MemoryBackend;

    beforeEach(async () => {
      made = await make();
      ({ backend } = made);
      model = new MemoryBackend(backend.sizeBytes);
      if (made.initial) model.bytes.set(made.initial);
    });
    afterEach(async () => {
      await backend.close();
      await made.dispose?.();
    });

    const both = async (work: (backend: BlockBackend) => Promise<void>): Promise<void> => {
      await work(backend);
      await work(model);
    };
    const expectSame = async (offset = 0, length = Math.min(2 ** 20, backend.sizeBytes)): Promise<void> => {
      const [seen, right] = [new Uint8Array(length), new Uint8Array(length)];
      await backend.readAt(offset, seen);
      await model.readAt(offset, right);
      const differs = Buffer.compare(seen, right) !== 0;
      expect(differs ? seen.findIndex((byte, i) => byte !== right[i]) : -1).toBe(-1);
    };
    const bytes = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

    it('reads what it began with, to its very end', async () => {
      await expectSame();
      await expectSame(backend.sizeBytes - SECTOR, SECTOR);
    });

    it('reads back a sector in the middle of a block, and leaves the rest of it', async () => {
      await both((each) => each.writeAt(3 * SECTOR, bytes(SECTOR, 7)));
      await expectSame();
    });

    it('reads back a write that begins and ends within blocks', async () => {
      await both((each) => each.writeAt(BLOCK - SECTOR, bytes(2 * BLOCK + 2 * SECTOR, 9)));
      await expectSame();
    });

    it.each(['discard', 'writeZeroes'] as const)(
      'reads zeroes after %s, whole blocks and parts',
      async (verb) => {
        await both((each) => each.writeAt(0, bytes(64 * BLOCK, 5)));
        await both((each) => each[verb](BLOCK, 3 * BLOCK));
        await both((each) => each[verb](10 * BLOCK + SECTOR, SECTOR));
        await both((each) => each[verb](20 * BLOCK - SECTOR, 2 * BLOCK));
        await expectSame();
        await both((each) => each[verb](0, backend.sizeBytes));
        await expectSame();
      },
    );

    it('reads what was written last, also over what was discarded', async () => {
      await both((each) => each.discard(0, 8 * BLOCK));
      await both((each) => each.writeAt(BLOCK + SECTOR, bytes(SECTOR, 3)));
      await both((each) => each.writeAt(BLOCK + SECTOR, bytes(2 * SECTOR, 4)));
      await expectSame();
    });

    it('orders writes that overlap as they were called', async () => {
      const writes = Array.from({ length: 32 }, (_, i) =>
        backend.writeAt((i % 3) * SECTOR, bytes((4 + (i % 5)) * SECTOR, i + 1)),
      );
      await Promise.all(writes);
      for (let i = 0; i < 32; i += 1)
        await model.writeAt((i % 3) * SECTOR, bytes((4 + (i % 5)) * SECTOR, i + 1));
      await expectSame();
    });

    it('writes neighbouring sectors of one block at once, and loses none', async () => {
      await Promise.all(
        Array.from({ length: 64 }, (_, i) => backend.writeAt(i * SECTOR, bytes(SECTOR, i + 1))),
      );
      for (let i = 0; i < 64; i += 1) await model.writeAt(i * SECTOR, bytes(SECTOR, i + 1));
      await expectSame();
    });

    it.each([
      ['outside the volume', (each: BlockBackend) => each.writeAt(each.sizeBytes, bytes(SECTOR, 1))],
      ['across its end', (each: BlockBackend) => each.readAt(each.sizeBytes - SECTOR, bytes(2 * SECTOR, 0))],
      ['below its beginning', (each: BlockBackend) => each.discard(-SECTOR, SECTOR)],
      ['not in whole sectors', (each: BlockBackend) => each.writeAt(1, bytes(SECTOR, 1))],
      ['of half a sector', (each: BlockBackend) => each.writeZeroes(0, SECTOR / 2)],
    ])('refuses what is %s, and changes nothing', async (_, work) => {
      await expect(work(backend)).rejects.toMatchObject({ kind: 'invalid-argument' });
      await expectSame();
    });

    it('agrees with memory over random requests', async () => {
      const random = seeded(7);
      const sectors = 2 ** 20 / SECTOR;
      for (let step = 0; step < 400; step += 1) {
        const start = random(sectors - 64);
        const [offset, length] = [start * SECTOR, (1 + random(64)) * SECTOR];
        const verb = random(6);
        if (verb < 3) await both((each) => each.writeAt(offset, bytes(length, 1 + (step % 255))));
        else if (verb === 3) await both((each) => each.discard(offset, length));
        else if (verb === 4) await both((each) => each.writeZeroes(offset, length));
        else await both((each) => each.flush());
        if (step % 10 === 0) await expectSame();
      }
      await expectSame();
    });
  });
}
