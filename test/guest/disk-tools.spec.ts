import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { MIB } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { GuestDisks } from '../support/guest-disks.js';
import { resizeExport } from '../support/export-process.js';

/** virtio 1.2 §6: RING_PACKED, and the bit of RING_EVENT_IDX, by place in the guest's list of features. */
const FEATURE_BIT = { packed: 34, eventIdx: 29 };

/** How much longer than on an idle machine a step may take. */
const PATIENTLY = { timeoutMs: 300_000 };

/** fio jobs, given one after the other; every block has a checksum, and all are read back and compared at the end. */
const fio = (file: string, ...jobs: string[]) =>
  [
    `fio --filename=${file} --direct=1 --ioengine=libaio --rw=randwrite --end_fsync=1 --thread --output-format=terse`,
    '--verify=crc32c --verify_fatal=1 --do_verify=1',
    ...jobs.map((job, index) => `--name=job${index} ${job}`),
  ].join(' ');

/** In the guest: bytes of which none is zero, made once, for a random number takes a while under emulation. */
const makePattern = "tr '\\0' '\\252' < /dev/zero | head -c 8388608 > /tmp/pattern";
const pattern = (sizeMib: number) => `for part in $(seq ${sizeMib / 8}); do cat /tmp/pattern; done`;

/** An ext4 of 64 MiB with one file in it, for a disk that nobody may write. */
const makeExt4 = (file: string) => {
  mkdirSync(`${file}.root`);
  writeFileSync(`${file}.root/greeting`, 'carved in stone\n');
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-d', `${file}.root`, file, '64M'], {
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  });
};

describe.each([{ packed: false }, { packed: true }])(
  'the tools of a Linux guest on a disk with two queues, packed=$packed',
  ({ packed }) => {
    let disks: GuestDisks;
    const inGuest = (command: string) => disks.guest.check(command, PATIENTLY);
    const dev = (name: string) => `/dev/${disks.device(name)}`;
    /** Counts the bytes of a piece of the disk that are not zero. */
    const notZero = async (name: string, offsetMib: number, sizeMib: number) => {
      const read = `dd if=${dev(name)} bs=1M skip=${offsetMib} count=${sizeMib} iflag=direct 2>/dev/null`;
      return Number(await inGuest(`${read} | tr -d '\\000' | wc -c`));
    };
    const expectNoFaults = async (name: string) => {
      const { guestFaults, failed, lastDisconnect } = await disks.status(name);
      expect({ name, guestFaults, failed, lastDisconnect }).toEqual({ name, guestFaults: 0 });
    };

    beforeAll(async () => {
      disks = await GuestDisks.start({
        disks: [
          { name: 'cached', size: '512M', cache: 'writeback' },
          { name: 'direct', size: '128M', cache: 'direct' },
          { name: 'sealed', size: '64M', readOnly: true, prepare: makeExt4 },
        ],
        numQueues: 2,
        packed,
        reactors: 2,
      });
      await inGuest(makePattern);
    });
    afterEach(async ({ task }) => {
      if (task.result?.state === 'fail') process.stderr.write(await disks.logs());
    });
    afterAll(async () => {
      if (disks) expect(await disks.stop()).toEqual([0, 0, 0]);
    });

    it('is negotiated as asked, with all that the disk can do', async () => {
      for (const name of ['cached', 'direct', 'sealed']) {
        const features = await disks.attribute(name, 'device/features');
        expect(features[FEATURE_BIT.packed], name).toBe(packed ? '1' : '0');
        expect(features[FEATURE_BIT.eventIdx], name).toBe('1');
        expect(await inGuest(`ls /sys/block/${disks.device(name)}/mq`), name).toMatch(/^0\s+1\s*$/);
      }
      expect(await disks.attribute('cached', 'queue/logical_block_size')).toBe('512');
      expect(await disks.attribute('cached', 'queue/physical_block_size')).toBe('4096');
      expect(await disks.attribute('cached', 'queue/discard_granularity')).toBe('4096');
      expect(Number(await disks.attribute('cached', 'queue/discard_max_bytes'))).toBeGreaterThan(512 * MIB);
      expect(Number(await disks.attribute('cached', 'queue/write_zeroes_max_bytes'))).toBeGreaterThan(
        512 * MIB,
      );
      expect(await disks.attribute('sealed', 'queue/discard_max_bytes')).toBe('0');
    });

    it.each(['cached', 'direct'])(
      'verifies what fio wrote with fsync through both queues: %s',
      async (name) => {
        const before = await disks.interrupts(name);
        const jobs = [
          '--bs=4k --iodepth=16 --size=2m --fsync=32 --cpus_allowed=0',
          '--bs=4k --iodepth=16 --size=2m --fsync=32 --cpus_allowed=1 --offset=32m',
          '--bs=512 --iodepth=8 --size=256k --fsync=128 --offset=64m',
          '--bs=64k --iodepth=8 --size=4m --fsync=16 --offset=96m',
        ];
        await inGuest(fio(dev(name), ...jobs));
        await inGuest(fio(dev(name), ...jobs.map((job) => `${job} --verify_only`)));
        const after = await disks.interrupts(name);
        expect(after).toHaveLength(2);
        after.forEach((count, queue) => expect(count, `queue ${queue}`).toBeGreaterThan(before[queue]!));
        const { metrics } = await disks.status(name);
        expect(metrics.bytes.write).toBeGreaterThanOrEqual(8 * MIB);
        expect(metrics.requests.flush).toBeGreaterThanOrEqual(24);
        await expectNoFaults(name);
      },
    );

    it('gives the space of a trimmed ext4 back to the host', async () => {
      const disk = dev('direct');
      await inGuest(`mkfs.ext4 -q ${disk} && mount -t ext4 ${disk} /mnt`);
      await inGuest('cp /tmp/pattern /mnt/kept && sha256sum /mnt/kept > /tmp/sum');
      await inGuest(`${pattern(48)} > /mnt/large && sync`);
      await inGuest(fio('/mnt/fio', '--bs=8k --size=1m --iodepth=8 --fsync=32'));
      const full = disks.allocated('direct');
      await inGuest('rm /mnt/large && sync && /sbin/fstrim /mnt');
      expect(full - disks.allocated('direct')).toBeGreaterThanOrEqual(46 * MIB);
      await inGuest(`umount /mnt && e2fsck -fn ${disk} && mount -t ext4 ${disk} /mnt`);
      await inGuest('sha256sum -c /tmp/sum && umount /mnt');
      await expectNoFaults('direct');
    });

    it('gives the space of a trimmed xfs back to the host, and grows under it', async () => {
      const disk = dev('cached');
      await inGuest(`mkfs.xfs -q -f ${disk} && mount -t xfs ${disk} /mnt`);
      await inGuest(`${pattern(48)} > /mnt/large && sync`);
      await inGuest(fio('/mnt/fio', '--bs=8k --size=1m --iodepth=8 --fsync=32'));
      const full = disks.allocated('cached');
      await inGuest('rm /mnt/large && sync && /sbin/fstrim /mnt');
      expect(full - disks.allocated('cached')).toBeGreaterThanOrEqual(46 * MIB);

      await resizeExport(disks.control('cached'), 768 * MIB, disks.file('cached'));
      const size = `/sys/block/${disks.device('cached')}/size`;
      await inGuest(`until [ $(cat ${size}) = ${(768 * MIB) / 512} ]; do sleep 0.1; done`);
      await inGuest('xfs_growfs /mnt');
      expect(Number(await inGuest("df -m /mnt | awk 'END { print $2 }'"))).toBeGreaterThan(680);
      await inGuest(`${pattern(16)} > /mnt/after && umount /mnt && xfs_repair -n ${disk}`);
      await expectNoFaults('cached');
    });

    it('reads zeros where it was zeroed, and takes no space where it was discarded', async () => {
      const disk = dev('direct');
      await inGuest(`${pattern(96)} > ${disk} && sync`);
      const full = disks.allocated('direct');
      await inGuest(`/sbin/blkdiscard -z -o 8M -l 16M ${disk}`);
      expect(await notZero('direct', 8, 16)).toBe(0);
      expect(disks.bytes('direct', 8 * MIB, 16 * MIB).every((byte) => byte === 0)).toBe(true);
      expect(await notZero('direct', 24, 1)).toBe(MIB);

      // `blkdiscard -z` keeps the space; punching a hole is WRITE_ZEROES with UNMAP.
      await inGuest(`/sbin/fallocate -p -o 32M -l 16M ${disk}`);
      expect(await notZero('direct', 32, 16)).toBe(0);
      expect(full - disks.allocated('direct')).toBeGreaterThanOrEqual(16 * MIB);

      await inGuest(`/sbin/blkdiscard -o 48M -l 32M ${disk}`);
      expect(full - disks.allocated('direct')).toBeGreaterThanOrEqual(48 * MIB);
      expect(await notZero('direct', 7, 1)).toBe(MIB);
      await expectNoFaults('direct');
    });

    it('needs no flush while the guest has its cache turned off', async () => {
      const cache = `/sys/block/${disks.device('cached')}/cache_type`;
      await inGuest(`echo "write through" > ${cache}`);
      expect(await disks.attribute('cached', 'queue/write_cache')).toBe('write through');
      const { metrics: before } = await disks.status('cached');
      await inGuest(fio(dev('cached'), '--bs=4k --size=512k --iodepth=8 --fsync=8'));
      const { metrics: after } = await disks.status('cached');
      expect(after.requests.write - before.requests.write).toBeGreaterThanOrEqual(128);
      expect(after.requests.flush).toBe(before.requests.flush);
      await inGuest(`echo "write back" > ${cache}`);
      expect(await disks.attribute('cached', 'queue/write_cache')).toBe('write back');
      await expectNoFaults('cached');
    });

    it('is read and never written when it is read-only', async () => {
      const disk = dev('sealed');
      const before = disks.bytes('sealed', 0, 64 * MIB);
      expect(await disks.attribute('sealed', 'ro')).toBe('1');
      for (const command of [
        `dd if=/dev/zero of=${disk} bs=4k count=1 oflag=direct`,
        `blockdev --setrw ${disk} && dd if=/dev/zero of=${disk} bs=4k count=1 oflag=direct`,
        `/sbin/blkdiscard ${disk}`,
        `mkfs.ext4 -q -F ${disk}`,
      ])
        expect((await disks.guest.run(command, PATIENTLY)).status, command).not.toBe(0);
      await inGuest(`mount -t ext4 -o ro ${disk} /mnt`);
      expect(await inGuest('cat /mnt/greeting')).toBe('carved in stone\n');
      expect((await disks.guest.run('touch /mnt/new')).status).not.toBe(0);
      await inGuest('umount /mnt');
      expect(disks.bytes('sealed', 0, 64 * MIB).equals(before)).toBe(true);
    });
  },
);
