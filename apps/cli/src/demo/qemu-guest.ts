import { serialOf } from '@cairn/domain';
import { Guest } from '@cairn/qemu';
import type { ApiClient } from '../api/api-client.js';
import { CliError } from '../cli-error.js';
import { hotPlug, hotUnplug } from '../plug/hot-plug.js';
import { dataBytes, type TourGuest } from './tour.js';

/** Finds the disk whose serial is $1 and prints its name; devices come and go, so nothing relies on `vda`. */
const findDisk = `find_disk() {
  for try in $(seq 150); do
    for disk in /sys/block/vd*; do
      [ "$(cat "$disk/serial" 2>/dev/null)" = "$1" ] && basename "$disk" && return
    done
    sleep 0.1
  done
  echo "no disk with the serial $1; disks: $(ls /sys/block)"; return 1
}
`;

/** A guest of the demo in QEMU. */
export class QemuGuest implements TourGuest {
  readonly formatting = 'mkfs.ext4 and mount';
  readonly writing = `write ${dataBytes / 2 ** 20} MiB, sync, checksum`;
  private disk = '';

  private constructor(
    private readonly guest: Guest,
    private readonly api: ApiClient,
    private readonly name: string,
  ) {}

  /** Boots it. */
  static async start(directory: string, name: string, api: ApiClient): Promise<QemuGuest> {
    return new QemuGuest(await Guest.start({ directory }), api, name);
  }

  async plug(volumeId: string): Promise<void> {
    await hotPlug(this.api, { volumeId, qmpSocket: this.guest.qmpSocket, instanceId: this.name });
    this.disk = (await this.guest.check(`${findDisk}find_disk ${serialOf(volumeId)}`)).trim();
  }

  unplug(volumeId: string): Promise<void> {
    return hotUnplug(this.api, { volumeId, qmpSocket: this.guest.qmpSocket });
  }

  readSerial(): Promise<string> {
    return this.guest.check(`cat /sys/block/${this.disk}/serial`);
  }

  async format(): Promise<void> {
    await this.guest.check(`mkfs.ext4 -q /dev/${this.disk} && mount -t ext4 /dev/${this.disk} /mnt`);
  }

  async write(): Promise<string> {
    await this.guest.check(`dd if=/dev/urandom of=/mnt/data bs=1M count=${dataBytes / 2 ** 20} && sync`);
    return this.sumOfData();
  }

  async release(): Promise<void> {
    await this.guest.check('umount /mnt');
  }

  async checksum(): Promise<string> {
    await this.guest.check(`mount -t ext4 /dev/${this.disk} /mnt`);
    return this.sumOfData();
  }

  async reread(): Promise<string> {
    await this.guest.check('sync && echo 3 > /proc/sys/vm/drop_caches');
    return this.sumOfData();
  }

  /** Ends it. */
  stop(): Promise<void> {
    return this.guest.stop();
  }

  private async sumOfData(): Promise<string> {
    const [sum] = (await this.guest.check('sha256sum /mnt/data')).split(' ');
    if (!sum) throw new CliError('the guest printed no checksum');
    return sum;
  }
}
