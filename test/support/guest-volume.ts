import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExportStatus } from '@cairn/block-export';
import { scratchDirectory, type BackEnd } from './back-end.js';
import { startExport, statusOf } from './export-process.js';

export interface GuestVolumeOptions {
  size: string;
  numQueues: number;
  packed: boolean;
  cache: 'direct' | 'writeback';
  reactors: number;
}

/** A volume for guests whose `cairn export` may be killed and started again, and to which two guests may connect. */
export class GuestVolume {
  private readonly scratch = scratchDirectory();
  private served: BackEnd | undefined;
  /** What the processes of before have printed. */
  private past = '';

  private constructor(private readonly options: GuestVolumeOptions) {}

  static async serve(options: GuestVolumeOptions): Promise<GuestVolume> {
    const volume = new GuestVolume(options);
    try {
      await volume.start();
      return volume;
    } catch (error) {
      await volume.close();
      throw error;
    }
  }

  /** A directory for what belongs to it, removed at the end. */
  get directory(): string {
    return this.scratch.path;
  }

  /** Arguments with which QEMU has it as its only vhost-user disk, and connects again every second. */
  get qemuArguments(): string[] {
    const { numQueues, packed } = this.options;
    return [
      ...['-chardev', `socket,id=volume-socket,path=${this.inside('volume.sock')},reconnect=1`],
      '-device',
      `vhost-user-blk-pci,id=volume,chardev=volume-socket,num-queues=${numQueues},packed=${packed ? 'on' : 'off'}`,
    ];
  }

  /** Starts the process, by the same command each time. */
  async start(): Promise<void> {
    const { size, numQueues, cache, reactors } = this.options;
    this.served = await startExport({
      disks: [{ file: this.inside('volume.img'), socket: this.inside('volume.sock') }],
      numQueues,
      cache,
      args: [...['--size', size, '--reactors', String(reactors)], ...['--control', this.inside('control')]],
    });
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    await this.served?.kill();
    this.past += this.served?.log() ?? '';
    this.served = undefined;
  }

  status(): Promise<ExportStatus> {
    return statusOf(this.inside('control'));
  }

  /** Waits until the process has taken a request of a guest's. */
  async takesRequests(timeoutMs = 60_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while ((await this.status()).metrics.counters.taken === 0) {
      if (Date.now() > deadline) throw new Error(`no request came within ${timeoutMs} ms`);
      await sleep(5);
    }
  }

  /** The bytes now. */
  content(): Buffer {
    return readFileSync(this.inside('volume.img'));
  }

  /** What the processes have printed, for a test that has failed. */
  log(): string {
    return `${this.past}${this.served?.log() ?? ''}`;
  }

  /** Stops the process, in good order, and removes everything; its exit code. */
  async close(): Promise<number | null | undefined> {
    const code = await this.served?.stop();
    this.scratch.remove();
    return code;
  }

  private inside(name: string): string {
    return join(this.scratch.path, name);
  }
}
