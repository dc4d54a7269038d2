import { describeBackEnd } from '../support/back-end.conformance.js';
import { describeMatrix, MATRIX_QUEUES, MATRIX_SERIAL } from '../support/back-end.matrix.js';
import { serveLayered, startLayered } from '../support/layered-disks.js';

const SIZE = 8 * 2 ** 20;
const DEPTHS = [1, 2, 8];

for (const depth of DEPTHS)
  describeBackEnd(
    `a volume of ${depth} layers`,
    startLayered(),
    { mixedIndirect: true, robust: true },
    (start, options) => serveLayered(start, { ...options, depth }),
  );

for (const depth of DEPTHS)
  for (const cache of ['writeback', 'direct'] as const)
    describeMatrix(`a volume of ${depth} layers, --cache ${cache}`, () =>
      serveLayered(startLayered(2), {
        sizeBytes: SIZE,
        depth,
        numQueues: MATRIX_QUEUES,
        serial: MATRIX_SERIAL,
        cache,
      }),
    );
