import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { QemuError } from './qemu-error.js';

/** An unpacked kernel package: the image to boot and its modules. */
export interface GuestKernel {
  imagePath: string;
  modulesDirectory: string;
}

/** Where what is downloaded or built for guests is kept for the next time. */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return env['CAIRN_CACHE_DIR'] ?? join(env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'cairn');
}

/**
 * Finds the kernel that guests boot: in CAIRN_GUEST_KERNEL_DIR, else where the set-up script puts it.
 *
 * Throws QemuError `guest-kernel-missing` with what to run.
 */
export function findGuestKernel(env: NodeJS.ProcessEnv = process.env): GuestKernel {
  const directory = env['CAIRN_GUEST_KERNEL_DIR'] ?? join(cacheDirectory(env), 'guest-kernel/current');
  const image = firstEntry(join(directory, 'boot'), /^vmlinuz-/);
  const version = image?.slice('vmlinuz-'.length);
  // Since Debian 13 packages keep modules under /usr/lib.
  const modules = ['lib/modules', 'usr/lib/modules']
    .map((path) => join(directory, path, version ?? ''))
    .find((path) => version && existsSync(path));
  if (!image || !modules) {
    throw new QemuError(
      'guest-kernel-missing',
      `no guest kernel in ${directory} (boot/vmlinuz-* with lib/modules/*): run "node scripts/setup.mjs --guest"`,
    );
  }
  return { imagePath: realpathSync(join(directory, 'boot', image)), modulesDirectory: realpathSync(modules) };
}

function firstEntry(directory: string, pattern: RegExp): string | undefined {
  return existsSync(directory) ? readdirSync(directory).find((name) => pattern.test(name)) : undefined;
}
