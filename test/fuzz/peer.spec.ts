import { describe, it } from 'vitest';
import { describeBackEnd } from '../support/back-end.conformance.js';
import { hasStorageDaemon, startStorageDaemon } from '../support/storage-daemon.js';

// An independent back-end shows whether the conformance suite and the fake driver are right, not only ours.
if (process.env['CAIRN_TEST_PEER'] === '1' && hasStorageDaemon())
  describeBackEnd('qemu-storage-daemon', startStorageDaemon, { mixedIndirect: false, robust: false });
else
  describe('qemu-storage-daemon', () =>
    it.skip('runs with CAIRN_TEST_PEER=1 where it is installed', () => undefined));
