import { createConnection } from 'node:net';
import { text } from 'node:stream/consumers';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { ExportStatus } from '@cairn/block-export';
import { Guest } from '@cairn/qemu';
import { scratchDirectory, type BackEnd } from './back-end.js';
import { startExport } from './export-process.js';

/** One disk of a guest, and how it is served. */
export interface GuestDisk {
  /** Names the disk: its serial, and its file on the host. */
  name: string;
  /** Makes the file, or leaves one that `prepare` made as it is. */
  size: string;
  cache?: 'direct' | 'writeback';
  readOnly?: boolean;
  /** Fills the file before it is served. */
  prepare?: (file: string) => void | Promise<void>;
}

export interface GuestDisksOptions {
  disks: readonly GuestDisk[];
  numQueues: number;
  packed: boolean;
  reactors: number;
}

/** A guest with the tools for disks, in which each disk is served by a `cairn export` of its own. */
export class GuestDisks {
  private constructor(
    readonly guest: Guest,
    private readonly exports: readonly BackEnd[],
    private readonly directory: { path: string; remove: () => void },
    private readonly devices: ReadonlyMap<string, string>,
  ) {}

  static async start({ disks, numQueues, packed, reactors }: GuestDisksOptions): Promise<GuestDisks> {
    const directory = scratchDirectory();
    const inside = (name: string) => join(directory.path, name);
    const exports: BackEnd[] = [];
    let guest: Guest | undefined;
    try {
      for (const { name, size, cache, readOnly = false, prepare } of disks) {
        await prepare?.(inside(`${name}.img`));
        const served = await startExport({
          disks: [{ file: inside(`${name}.img`), socket: inside(`${name}.sock`) }],
          numQueues,
          serial: name,
          readOnly,
          ...(cache && { cache }),
          args: [
            ...['--control', inside(`${name}.control`), '--reactors', String(reactors)],
            ...(readOnly ? [] : ['--size', size]),
          ],
        });
        exports.push(served);
      }
      guest = await Guest.start({
        directory: inside('guest'),
        tools: 'disks',
        memoryMib: 512,
        cpus: 2,
        extraArguments: disks.flatMap(({ name }) => [
          ...['-chardev', `socket,id=${name}-socket,path=${inside(`${name}.sock`)},reconnect=1`],
          '-device',
          `vhost-user-blk-pci,id=${name},chardev=${name}-socket,num-queues=${numQueues},packed=${packed ? 'on' : 'off'}`,
        ]),
      });
      const listing = await guest.check('for d in /sys/block/vd*; do echo $(cat $d/serial) ${d##*/}; done');
      const devices = new Map(listing.split('\n').map((line) => line.trim().split(' ') as [string, string]));
      return new GuestDisks(guest, exports, directory, devices);
    } catch (error) {
      await guest?.stop();
      for (const one of exports) await one.kill();
      directory.remove();
      throw error;
    }
  }

  /** The disk's name in the guest, for instance `vda`. */
  device(name: string): string {
    const device = this.devices.get(name);
    if (!device)
      throw new Error(`the guest has no disk ${name}, only ${[...this.devices.keys()].join(', ')}`);
    return device;
  }

  /** The disk's file on the host. */
  file(name: string): string {
    return join(this.directory.path, `${name}.img`);
  }

  /** Where its `cairn export` listens for commands. */
  control(name: string): string {
    return join(this.directory.path, `${name}.control`);
  }

  /** Bytes that the file occupies on the host. */
  allocated(name: string): number {
    return statSync(this.file(name)).blocks * 512;
  }

  /** Bytes of the file on the host, as they are in the page cache or below. */
  bytes(name: string, offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    const file = openSync(this.file(name), 'r');
    try {
      readSync(file, bytes, 0, length, offset);
      return bytes;
    } finally {
      closeSync(file);
    }
  }

  /** What the export counts. */
  async status(name: string): Promise<ExportStatus> {
    const socket = createConnection(this.control(name));
    socket.end(`${JSON.stringify({ verb: 'status' })}\n`);
    const answer = JSON.parse(await text(socket)) as { result: { exports: [ExportStatus] } };
    return answer.result.exports[0];
  }

  /** Value of an attribute of the disk under /sys/block. */
  async attribute(name: string, path: string): Promise<string> {
    return (await this.guest.check(`cat /sys/block/${this.device(name)}/${path}`)).trim();
  }

  /** How often each queue of the disk has interrupted the guest, queue by queue. */
  async interrupts(name: string): Promise<number[]> {
    const lines = await this.guest.check(
      `grep "$(basename $(readlink /sys/block/${this.device(name)}/device))-req" /proc/interrupts`,
    );
    return lines
      .trim()
      .split('\n')
      .map((line) =>
        line
          .trim()
          .split(/\s+/)
          .slice(1, 3)
          .reduce((sum, count) => sum + Number(count), 0),
      );
  }

  /** What the exports printed and the guest's kernel said, for a test that has failed. */
  async logs(): Promise<string> {
    const kernel = await this.guest.run('dmesg | tail -20').catch(() => undefined);
    return [...this.exports.map((one) => one.log()), kernel?.output ?? ''].join('\n');
  }

  /** Ends guest and exports; the exit codes of the exports. */
  async stop(): Promise<(number | null)[]> {
    await this.guest.stop();
    const codes = await Promise.all(this.exports.map((one) => one.stop()));
    this.directory.remove();
    return codes;
  }
}
