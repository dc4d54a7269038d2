/**
 * The kernel that guests boot: Debian's cloud kernel (Ubuntu: the virtual one), downloaded as a package and only
 * unpacked into the cache, because installing it would touch this machine's boot loader.
 *
 *   $CAIRN_CACHE_DIR/guest-kernel/current -> <package>_<version>/{boot,lib}
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { withLock } from './lock.mjs';
import { ScriptError, run, runToEnd, say } from './run.mjs';
import { updateLists } from './system-packages.mjs';

const metaPackages = ['linux-image-cloud-amd64', 'linux-image-virtual'];

/** Where downloads that several clones share are kept. */
export function cacheDirectory() {
  return (
    process.env.CAIRN_CACHE_DIR ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'cairn')
  );
}

/** Downloads and unpacks the guest kernel unless it is there; returns its directory. */
export async function ensureGuestKernel() {
  if (process.env.CAIRN_GUEST_KERNEL_DIR) return process.env.CAIRN_GUEST_KERNEL_DIR;
  const cache = join(cacheDirectory(), 'guest-kernel');
  const current = join(cache, 'current');
  if (existsSync(join(current, 'boot'))) return current;
  mkdirSync(cache, { recursive: true });
  await withLock(join(cache, 'lock'), async () => {
    if (!existsSync(join(current, 'boot'))) await download(cache, current);
  });
  return current;
}

async function download(cache, current) {
  const packages = await kernelPackages();
  say(`downloading the guest kernel (${packages.join(', ')}) into ${cache}; nothing is installed`);
  const work = mkdtempSync(join(cache, 'unpack-'));
  try {
    await run('apt-get', ['download', ...packages], { cwd: work, what: 'downloading the guest kernel' });
    const tree = join(work, 'tree');
    mkdirSync(tree);
    for (const file of readdirSync(work).filter((name) => name.endsWith('.deb'))) {
      await run('dpkg-deb', ['-x', file, tree], { cwd: work, what: 'unpacking the guest kernel' });
    }
    const name = packages[0];
    rmSync(join(cache, name), { recursive: true, force: true });
    renameSync(tree, join(cache, name));
    rmSync(current, { force: true });
    symlinkSync(name, current);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The packages behind the distribution's small virtual-machine kernel: the image and, on Ubuntu, its modules. */
async function kernelPackages() {
  const packages =
    (await listedKernelPackages()) ?? ((await updateLists()) && (await listedKernelPackages()));
  if (packages) return packages;
  throw new ScriptError(
    `no package ${metaPackages.join(' or ')} in apt's lists: run "apt-get update", or unpack any kernel package ` +
      'into a directory and name it in CAIRN_GUEST_KERNEL_DIR',
  );
}

async function listedKernelPackages() {
  for (const meta of metaPackages) {
    const image = (await dependsOf(meta)).find((name) => /^linux-image-\d/.test(name));
    if (!image) continue;
    const modules = (await dependsOf(image)).filter((name) => /^linux-modules-\d/.test(name));
    return [image, ...modules];
  }
  return undefined;
}

async function dependsOf(name) {
  const { status, output } = await runToEnd('apt-cache', ['depends', name]);
  if (status !== 0) return [];
  return [...output.matchAll(/Depends: (\S+)/g)].map((match) => match[1]);
}
