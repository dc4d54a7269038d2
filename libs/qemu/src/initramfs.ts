import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CpioArchive } from './cpio-archive.js';
import type { GuestKernel } from './guest-kernel.js';
import { readModules } from './kernel-modules.js';
import { QemuError } from './qemu-error.js';

/** Where tools are looked for: PATH, and where administrators' tools live. */
const searchPath = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/** Drivers of the disks; on many kernels the file system is built in, and is then skipped. */
const modules = ['virtio_pci', 'virtio_blk', 'ext4'];

/** Loads the drivers, then serves commands on the second serial port (see agent). */
const init = `#!/bin/busybox sh
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /mnt /run
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/
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
 * Builds the root file system of a guest: busybox, the tools of ext4 with the libraries they need, and the drivers.
 *
 * Throws QemuError `guest-tool-missing` with what to install.
 */
export function buildInitramfs(kernel: GuestKernel): Buffer {
  const archive = new CpioArchive();
  for (const directory of ['bin', 'sbin', 'dev', 'proc', 'sys', 'tmp', 'mnt', 'etc', 'modules']) {
    archive.addDirectory(directory);
  }
  archive.addFile({
    path: 'bin/busybox',
    mode: 0o755,
    content: readFileSync(findTool('busybox', 'busybox-static')),
  });
  addExt4Tools(archive);
  const loaded = readModules(kernel.modulesDirectory, modules);
  for (const { name, content } of loaded)
    archive.addFile({ path: `modules/${name}.ko`, mode: 0o644, content });
  const order = loaded.map(({ name }) => `${name}\n`).join('');
  archive.addFile({ path: 'modules/order', mode: 0o644, content: Buffer.from(order) });
  archive.addFile({ path: 'init', mode: 0o755, content: Buffer.from(init) });
  archive.addFile({ path: 'agent', mode: 0o755, content: Buffer.from(agent) });
  return archive.finish();
}

function addExt4Tools(archive: CpioArchive): void {
  const mke2fs = findTool('mke2fs', 'e2fsprogs');
  const e2fsck = findTool('e2fsck', 'e2fsprogs');
  const resize2fs = findTool('resize2fs', 'e2fsprogs');
  const tools = { mke2fs, e2fsck, resize2fs };
  for (const [name, path] of Object.entries(tools)) {
    archive.addFile({ path: `sbin/${name}`, mode: 0o755, content: readFileSync(path) });
  }
  archive.addLink('sbin/mkfs.ext4', 'mke2fs');
  if (existsSync('/etc/mke2fs.conf')) {
    archive.addFile({ path: 'etc/mke2fs.conf', mode: 0o644, content: readFileSync('/etc/mke2fs.conf') });
  }
  for (const library of new Set(Object.values(tools).flatMap(sharedLibrariesOf))) {
    archive.addFile({ path: library, mode: 0o755, content: readFileSync(library) });
  }
}

/** Absolute paths of what the dynamic linker would load, the linker itself included. */
function sharedLibrariesOf(program: string): string[] {
  const listing = execFileSync('ldd', [program], { encoding: 'utf8' });
  return [...listing.matchAll(/(?:=> )?(\/\S+) \(0x/g)].flatMap((match) => (match[1] ? [match[1]] : []));
}

function findTool(name: string, debianPackage: string): string {
  const found = searchPath.map((directory) => join(directory, name)).find((path) => existsSync(path));
  if (found) return join(realpathSync(dirname(found)), name);
  throw new QemuError('guest-tool-missing', `${name} is not installed: apt-get install ${debianPackage}`);
}
