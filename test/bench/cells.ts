import type { Load } from './loads.js';

/** Where the volume's bytes are. */
export type MediumName = 'page-cache' | 'tmpfs' | 'direct' | 'null';

/** One line of the table. */
export interface Cell {
  medium: MediumName;
  load: Load;
}

/** What each medium is called in a table. */
export const MEDIUM_TITLES: Record<MediumName, string> = {
  'page-cache': 'warm page cache',
  tmpfs: 'tmpfs',
  direct: 'disk, O_DIRECT',
  null: 'null device',
};

/** A cell; what is not said is the commonest. */
export const cell = (medium: MediumName, load: Partial<Load>): Cell => ({
  medium,
  load: { rw: 'randread', blockBytes: 4096, depth: 32, queues: 1, driver: 'poll', ...load },
});

/** A load in words. */
export const loadTitle = (load: Load): string => {
  const size = `${load.blockBytes / 1024} KiB`;
  const queues = load.queues === 1 ? '' : ` × ${load.queues} queues`;
  return `${load.rw} ${size}, depth ${load.depth}${queues}${load.driver === 'sleep' ? ', sleeping' : ''}`;
};

const LARGE = 128 * 1024;
const DEPTHS = [1, 32, 128];
const FILES: readonly MediumName[] = ['page-cache', 'tmpfs', 'direct'];
const ALL: readonly MediumName[] = [...FILES, 'null'];

/** What the project promises, and little more: a few minutes. */
export const quickCells = (): Cell[] => [
  ...DEPTHS.map((depth) => cell('page-cache', { depth })),
  cell('page-cache', { driver: 'sleep' }),
  cell('page-cache', { rw: 'randwrite' }),
  ...DEPTHS.map((depth) => cell('tmpfs', { depth })),
  cell('direct', { depth: 1 }),
  cell('direct', { depth: 128 }),
  cell('null', {}),
];

/** Everything: directions, depths, drivers and numbers of queues on every medium, and large sequential requests. */
export const fullCells = (): Cell[] =>
  ALL.flatMap((medium) => [
    ...(['poll', 'sleep'] as const).flatMap((driver) =>
      (['randread', 'randwrite'] as const).flatMap((rw) =>
        [1, 4].flatMap((queues) => DEPTHS.map((depth) => cell(medium, { rw, depth, driver, queues }))),
      ),
    ),
    ...(['read', 'write'] as const).map((rw) => cell(medium, { rw, blockBytes: LARGE, depth: 32 })),
  ]);

/** Whether a cell is among what was asked for; an empty list asks for everything. */
export const matches = ({ medium, load }: Cell, wanted: Wanted): boolean => {
  const has = <T>(list: readonly T[], value: T): boolean => list.length === 0 || list.includes(value);
  return (
    has(wanted.media, medium) &&
    has(wanted.rw, load.rw) &&
    has(wanted.depths, load.depth) &&
    has(wanted.queues, load.queues) &&
    has(wanted.drivers, load.driver)
  );
};

/** Restrictions of a matrix. */
export interface Wanted {
  media: readonly string[];
  rw: readonly string[];
  depths: readonly number[];
  queues: readonly number[];
  drivers: readonly string[];
}
