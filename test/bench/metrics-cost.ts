import { fileURLToPath } from 'node:url';
import { cairn } from './back-ends.js';
import { cell } from './cells.js';
import { type BenchContext, runMatrix } from './matrix.js';
import { tablesOf } from './table.js';

const WITHOUT = fileURLToPath(new URL('without-metrics.js', import.meta.url));

/** The same back-end with and without counting and timing each request. */
export const measureMetricsCost = async (context: BenchContext): Promise<string> => {
  const peers = [cairn(), cairn('cairn, nothing counted', { nodeFlags: ['--import', WITHOUT] })];
  const cells = [
    cell('null', { depth: 32 }),
    cell('page-cache', { depth: 1 }),
    cell('page-cache', { depth: 32 }),
    cell('page-cache', { depth: 128 }),
  ];
  const results = await runMatrix(cells, peers, { ...context, fio: false });
  return tablesOf(
    results,
    peers.map(({ name }) => name),
  );
};
