import { execFile } from 'node:child_process';
import { closeSync, openSync, readSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { GIB, MIB, serialOf } from '@cairn/domain';
import { Guest } from '@cairn/qemu';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Stack } from '../support/stack.js';

const run = promisify(execFile);
const program = fileURLToPath(new URL('../../dist/apps/cli/src/main.js', import.meta.url));

/** In the guest: waits for the disk with this serial and prints its name. */
const findDisk = (serial: string) =>
  `for try in $(seq 100); do for disk in /sys/block/vd*; do
    [ "$(cat $disk/serial 2>/dev/null)" = ${serial} ] && basename $disk && exit 0
  done; sleep 0.1; done; ls /sys/block; exit 1`;

/** In the guest: text that differs from line to line, so that a block in the wrong place shows. */
const pattern = (seed: string, bytes: number) =>
  `awk 'BEGIN { for (line = 1; ; line++) print "${seed} " line }' | head -c ${bytes}`;

/** The same text, made here. */
const patternBytes = (seed: string, bytes: number): Buffer => {
  let text = '';
  for (let line = 1; text.length < bytes; line++) text += `${seed} ${line}\n`;
  return Buffer.from(text).subarray(0, bytes);
};

/** The sparse file of the one volume there is: nothing else in a pool is as large as it looks. */
const sparseFileIn = (pool: string): string => {
  const files = readdirSync(pool, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  return files.toSorted((a, b) => statSync(b).size - statSync(a).size)[0]!;
};

const readAt = (path: string, offset: number, length: number): Buffer => {
  const bytes = Buffer.alloc(length);
  const file = openSync(path, 'r');
  try {
    expect(readSync(file, bytes, 0, length, offset)).toBe(length);
    return bytes;
  } finally {
    closeSync(file);
  }
};

describe('a volume in a running Linux guest', () => {
  let stack: Stack;
  let guest: Guest;
  let volumeId: string;
  let disk: string;
  let file: string;

  /** The `cairn` command, as somebody at a terminal runs it. */
  const cairn = (...args: string[]) =>
    run(process.execPath, [program, ...args], {
      env: {
        ...process.env,
        CAIRN_API_URL: stack.api.baseUrl,
        CAIRN_API_KEY: stack.controlPlane.env['CAIRN_BOOTSTRAP_API_KEY'],
      },
    });
  const plug = async (...args: string[]) => {
    await cairn('plug', '--qmp', guest.qmpSocket, '--volume', volumeId, ...args);
    disk = (await guest.check(findDisk(serialOf(volumeId)))).trim();
  };
  const unplug = () => cairn('unplug', '--qmp', guest.qmpSocket, '--volume', volumeId);

  beforeAll(async () => {
    stack = await Stack.start({ queue: 'postgres' });
    guest = await Guest.start({ directory: join(stack.directory, 'guest') });
    volumeId = (await stack.api.createVolume(GIB)).id;
    file = sparseFileIn(stack.poolDirectory);
    await plug();
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack.logs());
  });
  afterAll(async () => {
    await guest?.stop();
    await stack?.stop();
  });

  it('shows as a disk with its size, its id as serial and a write-back cache', async () => {
    expect((await guest.check(`cat /sys/block/${disk}/size`)).trim()).toBe(String(GIB / 512));
    expect(await guest.check(`cat /sys/block/${disk}/serial`)).toBe(serialOf(volumeId));
    expect((await guest.check(`cat /sys/block/${disk}/queue/write_cache`)).trim()).toBe('write back');
  });

  it('has the bytes that the guest wrote at the same offsets of the sparse file', async () => {
    for (const [offset, length] of [
      [0, 4096],
      [512, 512],
      [3 * MIB + 4096, 64 * 1024],
      [511 * MIB, 256 * 1024],
      [GIB - 1536, 1536],
    ] as const) {
      const seed = `at-${offset}`;
      await guest.check(
        `${pattern(seed, length)} | dd of=/dev/${disk} bs=512 seek=${offset / 512} conv=notrunc,fsync 2>&1`,
      );
      expect(readAt(file, offset, length).equals(patternBytes(seed, length)), seed).toBe(true);
    }
    expect(readAt(file, 100 * MIB, 4096).equals(Buffer.alloc(4096))).toBe(true);
  });

  it('occupies about 10 MiB when 10 MiB of 1 GiB were written', async () => {
    const before = statSync(file).blocks * 512;
    await guest.check(`dd if=/dev/urandom of=/dev/${disk} bs=1M count=10 seek=600 conv=notrunc,fsync 2>&1`);
    const { size, blocks } = statSync(file);
    expect(size).toBe(GIB);
    expect(blocks * 512 - before).toBeGreaterThanOrEqual(10 * MIB);
    expect(blocks * 512 - before).toBeLessThan(10.5 * MIB);
  });

  it('lets the guest turn its cache off and on', async () => {
    const cache = `/sys/block/${disk}/cache_type`;
    await guest.check(`echo "write through" > ${cache}`);
    expect((await guest.check(`cat ${cache}`)).trim()).toBe('write through');
    await guest.check(`dd if=/dev/zero of=/dev/${disk} bs=4k count=16 seek=4096 conv=notrunc,fsync 2>&1`);
    await guest.check(`echo "write back" > ${cache}`);
    expect((await guest.check(`cat ${cache}`)).trim()).toBe('write back');
  });

  it('keeps a file system over unplug and plug', async () => {
    await guest.check(`mkfs.ext4 -q /dev/${disk} && mount -t ext4 /dev/${disk} /mnt`);
    await guest.check('dd if=/dev/urandom of=/mnt/data bs=1M count=8 2>&1 && sync');
    const sum = await guest.check('sha256sum /mnt/data && umount /mnt');
    await unplug();
    expect(await guest.check('ls /sys/block')).not.toContain('vd');
    expect((await stack.api.volume(volumeId)).state).toBe('available');
    await plug();
    await guest.check(`e2fsck -fn /dev/${disk} && mount -t ext4 /dev/${disk} /mnt`);
    expect(await guest.check('sha256sum /mnt/data && umount /mnt')).toBe(sum);
  });

  it('cannot be written by a guest that has it read-only', async () => {
    await unplug();
    await plug('--read-only');
    expect((await guest.check(`cat /sys/block/${disk}/ro`)).trim()).toBe('1');
    expect((await guest.run(`dd if=/dev/zero of=/dev/${disk} bs=4k count=1`)).status).not.toBe(0);
    await unplug();
    await plug();
  });

  it('has packed rings when it is plugged so', async () => {
    /** virtio 1.2 §6: RING_PACKED, by place in the guest's list of features. */
    const RING_PACKED = 34;
    const features = () => guest.check(`cat /sys/block/${disk}/device/features`);
    expect((await features())[RING_PACKED]).toBe('0');
    await unplug();
    await plug('--packed');
    expect((await features())[RING_PACKED]).toBe('1');
    await guest.check(`dd if=/dev/zero of=/dev/${disk} bs=4k count=16 conv=notrunc,fsync 2>&1`);
  });

  it('says what is wrong with a plug, and leaves the volume as it was', async () => {
    const refused = await cairn('plug', '--qmp', '/nowhere', '--volume', volumeId).catch(
      (error: unknown) => error,
    );
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('cannot connect to /nowhere') });
    const twice = await cairn('plug', '--qmp', guest.qmpSocket, '--volume', volumeId).catch(
      (error: unknown) => error,
    );
    expect(twice).toMatchObject({ code: 1, stderr: expect.stringContaining('in-use') });
    expect((await stack.api.volume(volumeId)).state).toBe('in-use');
  });

  it('is written on while API, worker and database are gone, and after the data plane was killed', async () => {
    await stack.controlPlane.kill();
    await stack.worker.kill();
    await stack.postgres.shutDown();
    const length = 128 * 1024;
    const write = (seed: string) =>
      guest.check(`${pattern(seed, length)} | dd of=/dev/${disk} bs=64k seek=1600 conv=notrunc,fsync 2>&1`);
    await write('alone');
    expect(readAt(file, 100 * MIB, length).equals(patternBytes('alone', length))).toBe(true);
    await stack.dataPlane.kill();
    await stack.dataPlane.start();
    await write('again');
    expect(readAt(file, 100 * MIB, length).equals(patternBytes('again', length))).toBe(true);
  });
});
