import { describeMatrix, MATRIX_QUEUES, MATRIX_SERIAL } from '../support/back-end.matrix.js';
import { startExport } from '../support/export-process.js';
import { serveDisks } from '../support/served-disks.js';

const SIZE = 8 * 2 ** 20;

for (const cache of ['writeback', 'direct'] as const)
  for (const reactors of [1, 3])
    describeMatrix(`cairn export --cache ${cache} --reactors ${reactors}`, () =>
      serveDisks((options) => startExport({ ...options, args: ['--reactors', `${reactors}`] }), {
        sizeBytes: SIZE,
        numQueues: MATRIX_QUEUES,
        serial: MATRIX_SERIAL,
        cache,
      }),
    );
