import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { CpioArchive } from './cpio-archive.js';
import { cacheDirectory, type GuestKernel } from './guest-kernel.js';
import { guestFiles, modulesOf, type GuestFile, type ToolSet } from './guest-tools.js';
import { readModules } from './kernel-modules.js';

/** An archive that nobody has used for this long is removed when another one is made. */
const KEPT_MS = 7 * 24 * 3600 * 1000;

/** Loads the drivers, then serves commands on the second serial port (see agent). */
const init = `#!/bin/busybox sh
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /mnt /run
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
while read -r module; do insmod "/modules/$module.ko"; done < /modules/order
stty -F /dev/ttyS1 raw -echo
# The agent must be ended by nothing but the end of the guest.
while :; do setsid sh /agent < /dev/ttyS1 > /dev/ttyS1; done
`;

/**
 * One line in, "id base64-of-the-command"; two lines out, "id status base64-of-the-output" and nothing else.
 * A guest says "ready" once.
 */
const agent = `echo ready
while read -r id command; do
  [ -n "$id" ] || continue
  printf %s "$command" | base64 -d > /tmp/command
  sh /tmp/command > /tmp/output 2>&1 < /dev/null
  status=$?
  echo "$id $status $(base64 /tmp/output | tr -d '\\n')"
done
`;

/**
 * The root file system of a guest as a file: busybox, the tools of the set with the libraries they need, the given
 * static programs, and drivers.
 *
 * It is built once for a kernel and the versions of the tools on this machine, and kept in the cache.
 * Throws QemuError `guest-tool-missing` with what to install.
 */
export function findInitramfs(kernel: GuestKernel, set: ToolSet, programs: readonly string[]): string {
  const files: readonly GuestFile[] = [
    ...guestFiles(set),
    ...programs.map((source) => ({ path: `sbin/${basename(source)}`, mode: 0o755, source })),
  ];
  const directory = join(cacheDirectory(), 'guest-initramfs');
  const path = join(directory, `${set}-${digestOf(kernel, files)}.cpio`);
  if (existsSync(path)) {
    const now = new Date();
    utimesSync(path, now, now);
    return path;
  }
  mkdirSync(directory, { recursive: true });
  removeUnused(directory);
  const unfinished = `${path}.${process.pid}`;
  writeFileSync(unfinished, build(kernel, files, modulesOf[set]));
  renameSync(unfinished, path);
  return path;
}

function build(kernel: GuestKernel, files: readonly GuestFile[], modules: readonly string[]): Buffer {
  const archive = new CpioArchive();
  for (const directory of ['bin', 'sbin', 'dev', 'proc', 'sys', 'tmp', 'mnt', 'etc', 'modules']) {
    archive.addDirectory(directory);
  }
  for (const file of files) {
    if ('target' in file) archive.addLink(file.path, file.target);
    else archive.addFile({ path: file.path, mode: file.mode, content: readFileSync(file.source) });
  }
  const loaded = readModules(kernel.modulesDirectory, modules);
  for (const { name, content } of loaded)
    archive.addFile({ path: `modules/${name}.ko`, mode: 0o644, content });
  const order = loaded.map(({ name }) => `${name}\n`).join('');
  archive.addFile({ path: 'modules/order', mode: 0o644, content: Buffer.from(order) });
  archive.addFile({ path: 'init', mode: 0o755, content: Buffer.from(init) });
  archive.addFile({ path: 'agent', mode: 0o755, content: Buffer.from(agent) });
  return archive.finish();
}

/** Names everything that an archive depends on; files by size and time, for they are many and large. */
function digestOf(kernel: GuestKernel, files: readonly GuestFile[]): string {
  const stampOf = (path: string) => {
    const { size, mtimeMs } = statSync(path);
    return `${path} ${size} ${mtimeMs}`;
  };
  const parts = [
    init,
    agent,
    stampOf(kernel.modulesDirectory),
    ...files.map((file) => ('target' in file ? `${file.path} ${file.target}` : stampOf(file.source))),
  ];
  return createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 16);
}

function removeUnused(directory: string): void {
  for (const name of readdirSync(directory)) {
    const path = join(directory, name);
    // Another process may be removing the same one.
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (age > KEPT_MS) rmSync(path, { force: true });
  }
}
