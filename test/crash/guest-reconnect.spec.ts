import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest } from '@cairn/qemu';
import { afterEach, describe, expect, it } from 'vitest';
import { GuestVolume } from '../support/guest-volume.js';
import { Random } from '../support/random.js';
import { VerifyingLoad, differences, verifyingLoadProgram } from '../support/verifying-load.js';

/** How often the process is killed for each kind of ring. */
const KILLS = Number(process.env['CAIRN_GUEST_KILLS'] ?? 5);
const SEED = Number(process.env['CAIRN_GUEST_SEED'] ?? 1);

/** 8 MiB, so that each block is written and read again many times. */
const BLOCKS = 2048;
const THREADS = 16;

/** In the guest: what its kernel says of disks and of tasks that wait too long. */
const KERNEL_LOG = "dmesg | grep -iE 'i/o|vd[a-z]|virtio|hung|blocked'";

/** After the rings run; a kill in four comes while what the process of before had in flight may still be taken up. */
const delayMs = (random: Random) => (random.chance(0.25) ? random.below(50) : random.below(2500));

describe('a guest whose data plane is killed', () => {
  let volume: GuestVolume | undefined;
  let guest: Guest | undefined;
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') {
      const kernel = await guest?.run('dmesg | tail -20; cat /tmp/load.log | tail -3').catch(() => undefined);
      process.stderr.write(`${volume?.log() ?? ''}${kernel?.output ?? ''}\n`);
    }
    await guest?.stop();
    await volume?.close();
  });

  it.each([
    { packed: false, cache: 'direct' as const },
    { packed: true, cache: 'writeback' as const },
  ])(
    'sees a pause, no error, no lost and no doubled request: packed=$packed, cache $cache',
    async ({ packed, cache }) => {
      const random = new Random(SEED);
      volume = await GuestVolume.serve({ size: '64M', numQueues: 2, packed, cache, reactors: 2 });
      guest = await Guest.start({
        directory: join(volume.directory, 'guest'),
        programs: [verifyingLoadProgram()],
        cpus: 2,
        extraArguments: volume.qemuArguments,
      });
      const load = await VerifyingLoad.start(guest, {
        device: '/dev/vda',
        blocks: BLOCKS,
        threads: THREADS,
        seed: SEED,
      });
      await load.advance(500);
      const saidBefore = await guest.check(KERNEL_LOG);

      let inFlight = 0;
      for (let kill = 0; kill < KILLS; kill++) {
        await sleep(delayMs(random));
        await volume.kill();
        // Reads and writes that the guest waits for.
        const waiting = await guest.check('cat /sys/block/vda/inflight');
        inFlight += waiting
          .trim()
          .split(/\s+/)
          .reduce((sum, count) => sum + Number(count), 0);
        await volume.start();
        // QEMU from 7.2 to 9.0 never comes back to a process that dies in the middle of their greeting.
        await volume.takesRequests();
      }
      await load.advance(500);
      const { counts, table } = await load.finish();
      process.stdout.write(
        `${KILLS} kills, packed=${packed}: ${inFlight} requests were waiting at the kills; ${JSON.stringify(counts)}\n`,
      );

      expect(inFlight).toBeGreaterThan(0);
      expect(differences(volume.content(), table)).toEqual([]);
      expect(table.filter((sequence) => sequence > 0n).length).toBeGreaterThan(BLOCKS / 2);
      expect(await guest.check(KERNEL_LOG)).toBe(saidBefore);
      const { guestFaults, failed, lastDisconnect } = await volume.status();
      expect({ guestFaults, failed, lastDisconnect }).toEqual({ guestFaults: 0 });
    },
    120_000 + KILLS * 30_000,
  );
});
