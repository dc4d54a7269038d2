import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { ApiClient } from '../api/api-client.js';
import { CliError } from '../cli-error.js';
import { DataDirectory } from '../stack/data-directory.js';
import { Stack } from '../stack/stack.js';
import { PlayedGuest } from './played-guest.js';
import { QemuGuest } from './qemu-guest.js';
import { Steps } from './steps.js';
import { tour, type TourGuest } from './tour.js';

/** What was started, to be ended in the opposite order. */
type Closers = (() => Promise<void>)[];

/** `cairn demo`: the life of a volume between two guests, on a stack of its own. */
export function demoCommand(): Command {
  return new Command('demo')
    .description('show the life of a volume between two real guests, on a stack of its own')
    .option('--keep', 'leave the data directory behind')
    .option('--without-qemu', "play the guests with the project's own front-end")
    .addHelpText('after', '\nExit status: 0 when every step went well, 1 otherwise; the logs are then kept.')
    .action(async ({ keep = false, withoutQemu = false }: { keep?: boolean; withoutQemu?: boolean }) => {
      const started = Date.now();
      const dataDirectory = new DataDirectory(mkdtempSync(join(tmpdir(), 'cairn-demo-')));
      const closers: Closers = [];
      try {
        await Promise.race([demo(dataDirectory, closers, withoutQemu), interrupted()]);
      } catch (error) {
        const { message } = error as Error;
        throw new CliError(
          `${message}\ncairn: the logs are in ${dataDirectory.logs} and ${join(dataDirectory.path, 'guest-*')}`,
          error instanceof CliError ? error.remedy : undefined,
          { cause: error },
        );
      } finally {
        for (const close of closers.toReversed()) await close().catch(report);
      }
      if (!keep) rmSync(dataDirectory.path, { recursive: true, force: true });
      const left = keep ? `everything is in ${dataDirectory.path}` : 'nothing is left behind';
      print(`\nEvery step went well, in ${((Date.now() - started) / 1000).toFixed(0)} s; ${left}.`);
    });
}

async function demo(dataDirectory: DataDirectory, closers: Closers, withoutQemu: boolean): Promise<void> {
  // PostgreSQL may run as a user of its own, which has to pass through.
  chmodSync(dataDirectory.path, 0o755);
  const steps = new Steps(print);
  const stack = await steps.run(
    'start PostgreSQL, control plane, worker, data plane',
    () =>
      Stack.start({
        dataDirectory,
        print: () => undefined,
        httpPort: 0,
        agentPort: 0,
        env: ownEnvironment(),
      }),
    ({ url }) => url,
  );
  closers.push(() => stack.stop());
  const api = new ApiClient(stack.url, stack.apiKey.value);
  const boot = async (name: string): Promise<TourGuest> => {
    const guest = withoutQemu
      ? new PlayedGuest(api, name)
      : await steps.run(`boot guest ${name.toUpperCase()} in QEMU`, () =>
          QemuGuest.start(join(dataDirectory.path, `guest-${name}`), name, api),
        );
    closers.push(() => guest.stop());
    return guest;
  };
  if (withoutQemu) print('    There is no QEMU: the guests are played by a front-end of our own.');
  const guestA = await boot('a');
  const guestB = await boot('b');
  await tour({ steps, api, poolDirectory: dataDirectory.pool, guestA, guestB });
}

/** The demo stands alone: no database, queue or setting of the user's own stack is used. */
function ownEnvironment(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(
    ([name]) => !/^(CAIRN_|DATABASE_URL|REDIS_URL)/.test(name),
  );
  return Object.fromEntries(entries);
}

/** Rejects at Ctrl-C, so that the demo is cleaned up like after any failure. */
function interrupted(): Promise<never> {
  return new Promise((_, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.once(signal, () => reject(new CliError(`stopped by ${signal}`)));
    }
  });
}

function report(error: unknown): void {
  process.stderr.write(`cairn: while cleaning up: ${String(error)}\n`);
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
