import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GuestChannel, type GuestResult } from './guest-channel.js';
import { findGuestKernel } from './guest-kernel.js';
import type { ToolSet } from './guest-tools.js';
import { findInitramfs } from './initramfs.js';
import { hasKvm } from './kvm.js';
import { QmpClient } from './qmp-client.js';
import { QemuError } from './qemu-error.js';
import { Tethered } from './tethered.js';

/** What a guest is made of. */
export interface GuestOptions {
  /** Sockets and logs go here; made when missing. Keep it short: socket paths end at 107 bytes. */
  directory: string;
  /**
   * `disks` is about 100 MiB of programs, which the guest has in its memory: give it 512 MiB. Its shell prefers what
   * busybox has of a name: say /sbin/fstrim, /sbin/blkdiscard and /sbin/fallocate.
   */
  tools?: ToolSet;
  /** More programs for the guest's /sbin: static ones, by their paths on this machine. */
  programs?: readonly string[];
  memoryMib?: number;
  /** Makes it fit to be migrated, or to be the destination of one that was made so. */
  migratable?: boolean;
  /** How many devices can be plugged at once. */
  rootPorts?: number;
  cpus?: number;
  /** How long the boot may take; without KVM it is 5 to 20 seconds on an idle machine. */
  bootTimeoutMs?: number;
  /** More arguments for QEMU, for instance disks that are there from the start. */
  extraArguments?: readonly string[];
}

/** How long QEMU may take to open its sockets and to make its devices. */
const START_TIMEOUT_MS = 30_000;

/**
 * What the memory of a guest that may be migrated has beyond whole words of the dirty bitmap (64 pages, 256 KiB).
 *
 * QEMU before 9.0 takes whole words of it without telling the code that it has translated, and then misses what an
 * emulated guest writes. Where memory ends amid a word, it goes page by page and tells.
 */
const ODD_KIB = 8;

/**
 * A small Linux guest in QEMU, made for testing disks: a Debian kernel, busybox and the tools of file
 * systems in memory.
 *
 * It runs under KVM where that works and is emulated elsewhere. Its memory is shared (memfd), as vhost-user
 * needs, and it ends when this process does.
 */
export class Guest {
  private constructor(
    private readonly process: Tethered,
    private readonly channel: GuestChannel,
    /** A QMP socket that nobody else is connected to. */
    readonly qmpSocket: string,
    /** What the guest's kernel printed. */
    readonly consoleLog: string,
  ) {}

  /** Boots a guest and returns once it takes commands. Throws QemuError with the end of its logs. */
  static start(options: GuestOptions): Promise<Guest> {
    const { bootTimeoutMs = 180_000 } = options;
    return Guest.launch(options, (channel) => channel.booted(bootTimeoutMs));
  }

  /**
   * Starts QEMU for a guest that runs elsewhere and is about to be migrated to `uri`, for instance `unix:/…`.
   *
   * All but `directory` must be as that guest has it. Commands wait until it is here; see migrate.
   */
  static awaitMigration(options: GuestOptions, uri: string): Promise<Guest> {
    const extraArguments = [...(options.extraArguments ?? []), '-incoming', uri];
    return Guest.launch({ ...options, migratable: true, extraArguments }, (_, qmpSocket) =>
      listening(qmpSocket),
    );
  }

  private static async launch(
    options: GuestOptions,
    ready: (channel: GuestChannel, qmpSocket: string) => Promise<void>,
  ): Promise<Guest> {
    const { directory, tools = 'ext4', programs = [] } = options;
    mkdirSync(directory, { recursive: true });
    const kernel = findGuestKernel();
    const initramfs = findInitramfs(kernel, tools, programs);
    const consoleLog = join(directory, 'console.log');
    const qemuLog = join(directory, 'qemu.log');
    const qmpSocket = join(directory, 'qmp');
    const agentSocket = join(directory, 'agent');
    writeFileSync(qemuLog, '');
    const qemu = Tethered.start(
      'qemu-system-x86_64',
      [
        ...machineArguments(options),
        ...['-kernel', kernel.imagePath, '-initrd', initramfs],
        ...['-append', 'console=ttyS0 panic=-1 random.trust_cpu=on'],
        ...['-chardev', `file,id=console,path=${consoleLog}`, '-serial', 'chardev:console'],
        ...['-qmp', `unix:${qmpSocket},server=on,wait=off`],
        ...['-chardev', `socket,id=agent,path=${agentSocket},server=on,wait=off`, '-serial', 'chardev:agent'],
        ...(options.extraArguments ?? []),
      ],
      (chunk) => appendFileSync(qemuLog, chunk),
      { stopSignal: 'TERM' },
    );
    let channel: GuestChannel | undefined;
    try {
      channel = await GuestChannel.connect(agentSocket, () => qemu.isRunning, START_TIMEOUT_MS);
      await ready(channel, qmpSocket);
      return new Guest(qemu, channel, qmpSocket, consoleLog);
    } catch (error) {
      channel?.close();
      await qemu.stop({ timeoutMs: 2000 });
      const message = error instanceof Error ? error.message : String(error);
      const ends = `${endOf(qemuLog)}${endOf(consoleLog)}`;
      throw new QemuError('guest-failed', `${message} (logs in ${directory})\n${ends}`, { cause: error });
    }
  }

  /** Whether QEMU is still there. */
  get isRunning(): boolean {
    return this.process.isRunning;
  }

  /** Runs a shell command in the guest and returns how it ended. Throws QemuError `guest-timeout` or `guest-failed`. */
  run(command: string, { timeoutMs = 120_000 }: { timeoutMs?: number } = {}): Promise<GuestResult> {
    return this.channel.run(command, timeoutMs);
  }

  /** Runs a shell command in the guest and returns its output. Throws QemuError `command-failed` on a bad status. */
  async check(command: string, options?: { timeoutMs?: number }): Promise<string> {
    const { status, output } = await this.run(command, options);
    if (status === 0) return output;
    throw new QemuError(
      'command-failed',
      `in the guest, "${command}" ended with ${status}: ${output.trim()}`,
    );
  }

  /** Ends the guest as a power cut would; what it had not flushed is lost. */
  async stop(): Promise<void> {
    this.channel.close();
    await this.process.stop({ timeoutMs: 5000 });
  }
}

function machineArguments(options: GuestOptions): string[] {
  const { memoryMib = 256, migratable = false, rootPorts = 4, cpus = 1 } = options;
  const memoryKib = memoryMib * 1024 + (migratable ? ODD_KIB : 0);
  const ports = Array.from({ length: rootPorts }, (_, index) => [
    '-device',
    `pcie-root-port,id=rp${index},chassis=${index + 1},slot=${index + 1}`,
  ]);
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-machine', `q35,memory-backend=memory,accel=${hasKvm() ? 'kvm' : 'tcg'}`],
    ...['-cpu', hasKvm() ? 'host' : 'max', '-smp', String(cpus), '-m', `${memoryKib}K`],
    ...['-object', `memory-backend-memfd,id=memory,size=${memoryKib}K,share=on`],
    ...ports.flat(),
  ];
}

/** QEMU listens for the migration before it answers its monitor. */
async function listening(qmpSocket: string): Promise<void> {
  const monitor = await QmpClient.connect(qmpSocket, { timeoutMs: START_TIMEOUT_MS });
  try {
    await monitor.execute('query-status');
  } finally {
    monitor.close();
  }
}

function endOf(log: string): string {
  try {
    return readFileSync(log, 'utf8').split('\n').slice(-15).join('\n');
  } catch {
    return '';
  }
}
