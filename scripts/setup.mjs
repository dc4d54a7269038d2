/**
 * Makes a fresh clone ready: Node packages, native addon, compiled apps and, where asked, system packages.
 * Plain Node without dependencies, because it runs before there are any.
 *
 *   node scripts/setup.mjs [--guest] [--test]
 *
 * Every step is skipped when what it makes is up to date, so a second run costs about a second.
 * A lock keeps two set-ups in one clone from breaking each other.
 */
import { spawn } from 'node:child_process';
import { chmodSync, existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lib/lock.mjs';
import { ensureGuestKernel } from './lib/guest-kernel.mjs';
import { installNodePackages } from './lib/node-packages.mjs';
import { ScriptError, run, say, seconds } from './lib/run.mjs';
import { digestOf, isFresh, stamp } from './lib/stamp.mjs';
import { ensureSystemPackages } from './lib/system-packages.mjs';

/** The top of the clone. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

const guestNeeds = ['qemu', 'busybox', 'e2fsprogs', 'dpkg'];
/** What guests of the tests have beside. */
const guestTestNeeds = ['filesystems', 'fio', 'util-linux'];

/**
 * Prepares the clone.
 *
 * `guest`: 'none', 'wanted' (what is missing is returned as `guestProblem`) or 'required' (it throws).
 * Throws ScriptError, whose message tells what to do.
 */
export async function setUp({ guest = 'none', test = false } = {}) {
  const started = Date.now();
  requireNode();
  const guestProblem = await withLock(
    join(root, '.cairn', 'setup.lock'),
    async () => {
      await installNodePackages(root);
      await buildNative();
      await buildApps();
      if (test) await ensureSystemPackages(['redis', 'filesystems']);
      return guest === 'none' ? undefined : prepareGuest(guest, test);
    },
    { onWait: (pid) => say(`waiting for another set-up of this clone (process ${pid})`) },
  );
  say(`set-up done in ${seconds(Date.now() - started)}`);
  return { guestProblem };
}

function requireNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  throw new ScriptError(`Node.js ${process.versions.node} is too old: install 20.19 or newer`);
}

async function buildNative() {
  const inputs = digestOf(root, ['libs/native/addon', 'scripts/build-native.mjs']);
  const file = join(root, 'libs/native/build/.stamp');
  const built = ['libs/native/build/cairn.node', 'dist/libs/native/build/cairn.node'];
  if (built.every((path) => existsSync(join(root, path))) && isFresh(file, inputs)) return;
  await ensureSystemPackages(['compiler']);
  say('building the native addon');
  await run(process.execPath, ['scripts/build-native.mjs'], { cwd: root, what: 'building the native addon' });
  stamp(file, inputs);
}

async function buildApps() {
  const sources = [
    'apps',
    'libs',
    'tsconfig.json',
    'tsconfig.build.json',
    'nest-cli.json',
    'package-lock.json',
  ];
  const inputs = digestOf(
    root,
    sources,
    '',
    (name) => /\.(ts|json)$/.test(name) && !name.endsWith('.spec.ts'),
  );
  const main = join(root, 'dist/apps/cli/src/main.js');
  const file = join(root, 'dist/.stamp');
  if (existsSync(main) && isFresh(file, inputs)) return;
  say('compiling the apps (nest build)');
  await run(process.execPath, ['node_modules/@nestjs/cli/bin/nest.js', 'build'], {
    cwd: root,
    what: 'nest build',
  });
  chmodSync(main, 0o755);
  stamp(file, inputs);
}

async function prepareGuest(guest, test) {
  try {
    if (process.arch !== 'x64')
      throw new ScriptError(`guests are x86-64 only, and this machine is ${process.arch}`);
    await ensureSystemPackages([...guestNeeds, ...(test ? guestTestNeeds : [])]);
    await ensureGuestKernel();
    return undefined;
  } catch (error) {
    if (guest === 'required' || !(error instanceof ScriptError)) throw error;
    return error.message;
  }
}

/**
 * Runs a command of the built CLI in this terminal and resolves with its exit status.
 *
 * Signals are handed on and not acted on here, so that the command can stop in good order.
 */
export function runCairn(args) {
  const program = join(root, 'dist/apps/cli/src/main.js');
  const child = spawn(process.execPath, [program, ...args], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    // Ctrl-C reaches the child by itself, as it is in the same process group.
    process.on(signal, () => signal !== 'SIGINT' && child.kill(signal));
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
}

/** Runs a script's main function; a ScriptError is printed as a sentence, anything else with its stack. */
export async function main(work) {
  try {
    process.exitCode = await work();
  } catch (error) {
    process.stderr.write(`[cairn] ${error instanceof ScriptError ? error.message : error.stack}\n`);
    process.exitCode = 1;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    await setUp({
      guest: process.argv.includes('--guest') ? 'required' : 'none',
      test: process.argv.includes('--test'),
    });
    return 0;
  });
}
