import { StorageError } from '@cairn/storage';
import type { Command } from 'commander';

/** Exit codes of commands that check, as fsck(8) has them. */
export const CHECK_EXIT = { clean: 0, corrected: 1, left: 4, operational: 8, usage: 16 } as const;

export const checkExitHelp = `Exit codes, as of fsck(8): 0 clean, 1 repaired, 4 something is left that is not right, 8 the pool could not be checked
(as while a data plane uses it), 16 wrong usage.`;

/** Runs a check; one that could not be done is told in a sentence, and has an exit code of its own. */
export async function orOperationalError(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    process.stderr.write(`cairn: ${error.message}\n`);
    process.exitCode = CHECK_EXIT.operational;
  }
}

/** Wrong usage of a command that checks must not look like an error that was repaired: 1 means that there. */
export const exitAsCheck = (command: Command): Command =>
  command.exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : CHECK_EXIT.usage));
