import { RING_FEATURE, bits } from '@cairn/virtio/testing';
import { FakeBlkDisk, type FakeDiskOptions } from '@cairn/vhost-user/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exerciseAgainstModel } from './model-disk.js';
import { Random } from './random.js';
import type { ServedDisks } from './served-disks.js';

const MiB = 2 ** 20;

/** Guest memory in one piece, and in three with a hole and a file offset. */
const MEMORY = {
  'one region': [{ gpa: 0, sizeBytes: 16 * MiB }],
  'three regions': [
    { gpa: 0, sizeBytes: 2 * MiB },
    { gpa: 2 * MiB, sizeBytes: 4 * MiB },
    { gpa: 0x1_4000_0000, sizeBytes: 8 * MiB, mmapOffsetBytes: MiB },
  ],
} as const;

/** Serial that the back-end of a matrix must be started with. */
export const MATRIX_SERIAL = 'matrix-serial';
export const MATRIX_QUEUES = 3;

interface Cell {
  name: string;
  packed: boolean;
  eventIdx: boolean;
  indirect: boolean;
  options: FakeDiskOptions;
}

const onOff = [true, false] as const;

const cells: Cell[] = onOff.flatMap((packed) =>
  onOff.flatMap((eventIdx) =>
    onOff.flatMap((indirect) =>
      (Object.keys(MEMORY) as (keyof typeof MEMORY)[]).map((memory) => ({
        name: [
          packed ? 'packed' : 'split',
          eventIdx ? 'EVENT_IDX' : 'no EVENT_IDX',
          indirect ? 'INDIRECT_DESC' : 'no INDIRECT_DESC',
          memory,
        ].join(', '),
        packed,
        eventIdx,
        indirect,
        options: {
          memory: MEMORY[memory],
          packed,
          numQueues: MATRIX_QUEUES,
          without:
            (eventIdx ? 0n : bits(RING_FEATURE.EVENT_IDX)) |
            (indirect ? 0n : bits(RING_FEATURE.INDIRECT_DESC)),
        },
      })),
    ),
  ),
);

/** Every combination of what driver and front-end choose, with every kind of request, against a byte array. */
export const describeMatrix = (name: string, serve: () => Promise<ServedDisks>): void => {
  describe(name, () => {
    let served: ServedDisks;
    beforeAll(async () => {
      served = await serve();
    });
    afterAll(() => served.close());

    it.each(cells)('keeps every byte: $name', async (cell) => {
      const { packed, eventIdx, indirect, options } = cell;
      const disk = await FakeBlkDisk.open(served.sockets[0]!, options);
      try {
        expect(disk.has(RING_FEATURE.RING_PACKED)).toBe(packed);
        expect(disk.has(RING_FEATURE.EVENT_IDX)).toBe(eventIdx);
        expect(disk.has(RING_FEATURE.INDIRECT_DESC)).toBe(indirect);
        const model = await exerciseAgainstModel(disk, new Random(1 + cells.indexOf(cell)), {
          model: served.content(),
          requests: 120,
          depth: 16,
          indirect,
          mixed: !packed,
          maxPieces: 40,
          zeroing: true,
          serial: MATRIX_SERIAL,
        });
        expect(served.content().equals(model)).toBe(true);
        expect(await disk.stop()).toEqual(disk.queues.map(({ ring }) => ring.drainedBase));
      } finally {
        disk.close();
      }
    });
  });
};
