import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '@cairn/domain';
import { Guest, QmpClient, migrate, type GuestOptions } from '@cairn/qemu';
import { afterEach, describe, expect, it } from 'vitest';
import { GuestVolume } from '../support/guest-volume.js';
import { VerifyingLoad, differences, verifyingLoadProgram } from '../support/verifying-load.js';

/** How often the guest is moved for each kind of ring. */
const HOPS = Number(process.env['CAIRN_GUEST_HOPS'] ?? 2);

/** 8 MiB, so that each block is written and read again many times. */
const BLOCKS = 2048;
const THREADS = 16;

describe('a guest that is migrated while it works', () => {
  let volume: GuestVolume | undefined;
  const guests: Guest[] = [];
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') {
      const kernel = await guests
        .at(-1)
        ?.run('dmesg | tail -20; tail -n 3 /tmp/load.log', { timeoutMs: 20_000 })
        .catch(() => undefined);
      process.stderr.write(`${volume?.log() ?? ''}${kernel?.output ?? ''}\n`);
    }
    for (const guest of guests.splice(0)) await guest.stop();
    await volume?.close();
  });

  it.each([{ packed: false }, { packed: true }])(
    'finds each block as it was written last, and its memory as the disk left it: packed=$packed',
    async ({ packed }) => {
      volume = await GuestVolume.serve({
        size: '64M',
        numQueues: 2,
        packed,
        cache: 'writeback',
        reactors: 2,
      });
      const { directory, qemuArguments } = volume;
      const machine = (name: string): GuestOptions => ({
        directory: join(directory, name),
        programs: [verifyingLoadProgram()],
        cpus: 2,
        migratable: true,
        extraArguments: qemuArguments,
      });
      let source = await Guest.start(machine('home'));
      guests.push(source);
      const load = await VerifyingLoad.start(source, {
        device: '/dev/vda',
        blocks: BLOCKS,
        threads: THREADS,
        seed: 1,
      });

      const hop = async (name: string, options: { bytesPerSecond?: number } = {}) => {
        await load.advance(500);
        const uri = `unix:${join(directory, `${name}.migration`)}`;
        const destination = await Guest.awaitMigration(machine(name), uri);
        guests.push(destination);
        const monitor = await QmpClient.connect(source.qmpSocket);
        return { destination, migrated: migrate(monitor, uri, options).finally(() => monitor.close()) };
      };

      // The first destination dies on the way: the guest goes on where it is.
      const broken = await hop('nowhere', { bytesPerSecond: MIB });
      const [outcome] = await Promise.allSettled([
        broken.migrated,
        sleep(1000).then(() => broken.destination.stop()),
      ]);
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'migration-failed' } });

      for (let count = 1; count <= HOPS; count++) {
        const { destination, migrated } = await hop(`hop-${count}`);
        process.stdout.write(`hop ${count}, packed=${packed}: ${JSON.stringify(await migrated)}\n`);
        await source.stop();
        load.guest = source = destination;
      }
      await load.advance(1000);
      const { counts, table } = await load.finish();
      process.stdout.write(`packed=${packed}: ${JSON.stringify(counts)}\n`);

      expect(differences(volume.content(), table)).toEqual([]);
      expect(table.filter((sequence) => sequence > 0n).length).toBeGreaterThan(BLOCKS / 2);
      const { guestFaults, failed, waiting, lastDisconnect } = await volume.status();
      expect({ guestFaults, failed, waiting, lastDisconnect }).toEqual({ guestFaults: 0 });
    },
    240_000 + HOPS * 60_000,
  );
});
