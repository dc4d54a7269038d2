import { execFileSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { QemuError } from './qemu-error.js';

/** Which programs a guest has beside busybox: those of ext4, or also those of xfs, fio and util-linux. */
export type ToolSet = 'ext4' | 'disks';

/** A program of this machine that a guest is given. */
interface Tool {
  name: string;
  debianPackage: string;
  /** Other names of it. */
  links?: readonly string[];
  /** Files that it reads, where they exist. */
  files?: readonly string[];
}

const ext4Tools: readonly Tool[] = [
  { name: 'mke2fs', debianPackage: 'e2fsprogs', links: ['mkfs.ext4'], files: ['/etc/mke2fs.conf'] },
  { name: 'e2fsck', debianPackage: 'e2fsprogs', links: ['fsck.ext4'] },
  { name: 'resize2fs', debianPackage: 'e2fsprogs' },
];

const toolSets: Readonly<Record<ToolSet, readonly Tool[]>> = {
  ext4: ext4Tools,
  disks: [
    ...ext4Tools,
    { name: 'mkfs.xfs', debianPackage: 'xfsprogs' },
    { name: 'xfs_repair', debianPackage: 'xfsprogs' },
    { name: 'xfs_growfs', debianPackage: 'xfsprogs' },
    { name: 'fio', debianPackage: 'fio' },
    { name: 'blkdiscard', debianPackage: 'util-linux' },
    { name: 'fallocate', debianPackage: 'util-linux' },
    { name: 'fstrim', debianPackage: 'util-linux' },
  ],
};

/** File systems and drivers that each set needs; what a kernel has built in is skipped. */
export const modulesOf: Readonly<Record<ToolSet, readonly string[]>> = {
  ext4: ['virtio_pci', 'virtio_blk', 'ext4'],
  disks: ['virtio_pci', 'virtio_blk', 'ext4', 'xfs'],
};

/** A file of a guest's root: where it is there, where it is here, or what it is a link to. */
export type GuestFile = { path: string; mode: number; source: string } | { path: string; target: string };

/** Where tools are looked for: PATH, and where administrators' tools live. */
const searchPath = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/**
 * Lists busybox, the tools of the set, and the libraries that they need, each once.
 *
 * Throws QemuError `guest-tool-missing` with what to install.
 */
export function guestFiles(set: ToolSet): GuestFile[] {
  const files: GuestFile[] = [
    { path: 'bin/busybox', mode: 0o755, source: findTool('busybox', 'busybox-static') },
  ];
  const libraries = new Set<string>();
  for (const { name, debianPackage, links = [], files: read = [] } of toolSets[set]) {
    const source = findTool(name, debianPackage);
    files.push({ path: `sbin/${name}`, mode: 0o755, source });
    for (const link of links) files.push({ path: `sbin/${link}`, target: name });
    for (const path of read.filter((file) => existsSync(file)))
      files.push({ path, mode: 0o644, source: path });
    for (const library of sharedLibrariesOf(source)) libraries.add(library);
  }
  for (const library of libraries) files.push({ path: library, mode: 0o755, source: library });
  return files;
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
