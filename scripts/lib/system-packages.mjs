/** System packages that a step needs: found by running them, installed with apt-get where that is possible. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ScriptError, run, say, works } from './run.mjs';

/** Each need: why it is wanted, the Debian packages that bring it, and how to see that it is there. */
export const needs = {
  compiler: {
    why: 'builds the native addon',
    packages: ['gcc', 'libc6-dev'],
    present: compilerWorks,
  },
  qemu: {
    why: 'runs the guests',
    packages: ['qemu-system-x86'],
    present: () => works('qemu-system-x86_64', ['--version']),
  },
  busybox: {
    why: 'is the userland of the guests',
    packages: ['busybox-static'],
    present: () => works('busybox', ['true']) && !works('sh', ['-c', 'ldd "$(command -v busybox)"']),
  },
  e2fsprogs: {
    why: 'formats disks inside the guests',
    packages: ['e2fsprogs'],
    present: () => works('mke2fs', ['-V']) && works('e2fsck', ['-V']),
  },
  'util-linux': {
    why: 'trims and discards disks inside the guests of the tests',
    packages: ['util-linux'],
    present: () => ['blkdiscard', 'fallocate', 'fstrim'].every((tool) => works(tool, ['--version'])),
  },
  dpkg: {
    why: 'unpacks the kernel of the guests',
    packages: ['dpkg'],
    present: () => works('dpkg-deb', ['--version']),
  },
  redis: {
    why: 'is the queue that integration and e2e tests also run against, on a free port',
    packages: ['redis-server'],
    present: () => works('redis-server', ['--version']),
  },
  filesystems: {
    why: 'makes the file systems that the volume store is tried on',
    packages: ['xfsprogs', 'e2fsprogs'],
    present: () => works('mkfs.xfs', ['-V']) && works('mke2fs', ['-V']),
  },
  'storage-daemon': {
    why: 'is the back-end that benchmarks compare with',
    packages: ['qemu-system-common'],
    present: () => works('qemu-storage-daemon', ['--version']),
  },
  'qemu-img': {
    why: 'is what benchmarks compare snapshots with',
    packages: ['qemu-utils'],
    present: () => works('qemu-img', ['--version']),
  },
  fio: {
    why: 'verifies disks in the guests of the tests, and measures the bare file in benchmarks',
    packages: ['fio'],
    present: () => works('fio', ['--version']),
  },
};

/**
 * Makes sure that every named need is met, installing what is missing.
 *
 * Throws ScriptError that names the packages and the command to type when it may not or cannot install them.
 */
export async function ensureSystemPackages(names) {
  const missing = names.map((name) => needs[name]).filter((need) => !need.present());
  if (missing.length === 0) return;
  const packages = missing.flatMap((need) => need.packages);
  const reasons = missing.map((need) => `${need.packages.join(' + ')} (${need.why})`).join(', ');
  const byHand = `install it by hand and run this again: sudo apt-get install ${packages.join(' ')}`;
  if (!works('apt-get', ['--version'])) {
    throw new ScriptError(
      `missing: ${reasons}. This is not Debian or Ubuntu: install the same with your package manager and run this again.`,
    );
  }
  const root = asRoot();
  if (!root) throw new ScriptError(`missing: ${reasons}. Not root and no passwordless sudo: ${byHand}`);
  say(`installing with apt-get: ${reasons}`);
  await aptGet(root, ['update', '-q'], byHand);
  await aptGet(root, ['install', '-q', '-y', '--no-install-recommends', ...packages], byHand);
  const still = missing.filter((need) => !need.present());
  if (still.length > 0) {
    throw new ScriptError(
      `installed, but still not working: ${still.flatMap((need) => need.packages).join(', ')}; ${byHand}`,
    );
  }
}

/** The words to put before a command that needs root, or `undefined` when there is no way. */
export function asRoot() {
  if (process.getuid?.() === 0) return [];
  return works('sudo', ['-n', 'true']) ? ['sudo', '-n'] : undefined;
}

/** Refreshes apt's package lists; false when that needs rights this user has not. */
export async function updateLists() {
  const root = asRoot();
  if (!root || !works('apt-get', ['--version'])) return false;
  await aptGet(root, ['update', '-q'], '');
  return true;
}

async function aptGet(root, args, byHand) {
  const command = [
    ...root,
    'env',
    'DEBIAN_FRONTEND=noninteractive',
    'apt-get',
    '-o',
    'DPkg::Lock::Timeout=300',
  ];
  try {
    await run(command[0], [...command.slice(1), ...args], { what: `apt-get ${args[0]}` });
  } catch (error) {
    // A third-party source that does not answer must not stop an install that the others can serve.
    if (args[0] === 'update') say(`apt-get update complained, going on: ${error.message.split('\n').at(-1)}`);
    else throw new ScriptError(`${error.message}\n${byHand}`);
  }
}

/** A compiler without the C library's headers is of no use, so a small program is compiled. */
function compilerWorks() {
  const directory = mkdtempSync(join(tmpdir(), 'cairn-cc-'));
  try {
    const source = join(directory, 'probe.c');
    writeFileSync(
      source,
      '#include <stdio.h>\n#include <linux/io_uring.h>\nint probe(void) { return puts(""); }\n',
    );
    const object = join(directory, 'probe.so');
    return works('cc', ['-shared', '-fPIC', '-o', object, source]) && existsSync(object);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
