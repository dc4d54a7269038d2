import { rateLimitsOf } from '@cairn/block-export';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { limitExport } from '../support/export-process.js';
import { GuestDisks } from '../support/guest-disks.js';

const IOPS = 10;
const SECONDS = 60;
/** What the kernel keeps in flight: at ten a second the last of them waits for six seconds and a half. */
const DEPTH = 64;

describe('a guest that may have ten requests a second', () => {
  let disks: GuestDisks;
  beforeAll(async () => {
    disks = await GuestDisks.start({
      disks: [{ name: 'slow', size: '64M' }],
      numQueues: 2,
      packed: false,
      reactors: 2,
    });
    await limitExport(disks.control('slow'), disks.file('slow'), IOPS);
  });
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(await disks.logs());
  });
  afterAll(() => disks?.stop());

  it('waits for them, and sees no timeout and no error', async () => {
    const before = await disks.status('slow');
    expect(before.limits).toEqual(rateLimitsOf({ iops: IOPS }));
    const kernel = async () => (await disks.guest.check('dmesg')).split('\n');
    const said = (await kernel()).length;

    const device = `/dev/${disks.device('slow')}`;
    const load = `--direct=1 --ioengine=libaio --rw=randrw --bs=4k --iodepth=${DEPTH} --time_based --runtime=${SECONDS}`;
    await disks.guest.check(`fio --name=load --thread --filename=${device} ${load} --output-format=terse`, {
      timeoutMs: (SECONDS + 240) * 1000,
    });

    const after = await disks.status('slow');
    const requests = after.requests - before.requests;
    expect(requests).toBeGreaterThan((IOPS * SECONDS) / 2);
    expect(after.rate.throttledMicros - before.rate.throttledMicros).toBeGreaterThan((SECONDS / 2) * 1e6);
    // What was counted is the rate: as many went as came in while requests waited, and what could go at once.
    const throttledSeconds = (after.rate.throttledMicros - before.rate.throttledMicros) / 1e6;
    expect(requests).toBeLessThan(IOPS * throttledSeconds * 1.2 + 2 * IOPS);
    expect([after.errorsByName, after.faultsByName]).toEqual([{}, {}]);
    expect(
      (await kernel()).slice(said).filter((line) => /timeout|timed out|I\/O error|blocked/.test(line)),
    ).toEqual([]);
  });
});
