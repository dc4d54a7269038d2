import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { FakeFrontend } from '@cairn/vhost-user/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type BackEnd, cpuMillis, scratchDirectory } from '../support/back-end.js';
import { startExport } from '../support/export-process.js';

let scratch: ReturnType<typeof scratchDirectory>;
let backEnd: BackEnd;
const frontEnds: FakeFrontend[] = [];

beforeEach(async () => {
  scratch = scratchDirectory();
  const disks = ['one', 'two'].map((name) => {
    const file = join(scratch.path, `${name}.img`);
    writeFileSync(file, Buffer.alloc(2 ** 20));
    return { file, socket: join(scratch.path, `${name}.sock`) };
  });
  backEnd = await startExport({ disks, args: ['--reactors', '1'] });
});
afterEach(async () => {
  for (const one of frontEnds.splice(0)) one.close();
  await backEnd.kill();
  scratch.remove();
});

/** From now on the process opens nothing whose number would be `most` or more; what it has open stays. */
const limitDescriptors = (most: number): void => {
  execFileSync('prlimit', ['--pid', String(backEnd.pid), `--nofile=${most}:4096`]);
};

const connect = (disk: number): FakeFrontend => {
  const one = FakeFrontend.connect(backEnd.disks[disk]!.socket, { timeoutMs: 60_000 });
  frontEnds.push(one);
  return one;
};

/** Whether it is answered within two and a half seconds: longer than the back-end waits between two attempts. */
const isHeard = async (answer: Promise<unknown>): Promise<boolean> =>
  Promise.race([answer.then(() => true), setTimeout(2500, false)]);

it('takes a front-end that came when the process had no descriptor left, as soon as it has one', async () => {
  const served = connect(0);
  await served.getFeatures();
  limitDescriptors(3);
  const late = connect(1);
  const answer = late.getFeatures();
  const before = cpuMillis(backEnd.pid);
  expect(await isHeard(answer)).toBe(false);
  expect(cpuMillis(backEnd.pid) - before).toBeLessThan(500); // it sleeps meanwhile
  await served.getFeatures();
  limitDescriptors(1024);
  expect(await answer).toBeGreaterThan(0n);
  const notices = () => backEnd.log().match(/export \d+ cannot take a front-end that waits \(EMFILE\)/g);
  expect(notices()).toHaveLength(1);

  // It is told again when it happens again.
  limitDescriptors(3);
  const later = connect(1);
  expect(await isHeard(later.getFeatures().catch(() => undefined))).toBe(false);
  await expect.poll(() => notices()?.length).toBe(2);
  expect(await backEnd.stop()).toBe(0);
});
