import { checkPool, describeFinding, type PoolCheck } from '@cairn/storage';
import { Command } from 'commander';
import { CHECK_EXIT, checkExitHelp, orOperationalError } from './check-exit.js';

interface Options {
  repair: boolean;
  scrub: boolean;
  json: boolean;
}

const fsckHelp = `
Checked are the manifests and their checksums, that each layer's file is there and large enough, that every chain is
whole, that no two layers have one file and no two volumes one head, and what belongs to nobody. Each finding is a line:

  damage     something cannot be used, and only a backup helps; nothing is repaired while there is any
  leftover   what a crash left behind; --repair removes it, and so does the data plane when it opens the pool
  notice     odd and harmless, such as a layer that is to be folded into the next

${checkExitHelp}`;

/** `cairn fsck`: checks a pool that no data plane uses. */
export function fsckCommand(): Command {
  return new Command('fsck')
    .description('check a pool that no data plane uses, and repair what a crash left')
    .argument('<pool>', 'the directory of the pool')
    .option('--repair', 'remove what a crash left behind', false)
    .option('--scrub', 'read every layer that has checksums, and compare', false)
    .option('--json', 'print the result as JSON', false)
    .addHelpText('after', fsckHelp)
    .action((directory: string, { repair, scrub, json }: Options) =>
      orOperationalError(async () => {
        const check = await checkPool(directory, { repair, scrub });
        process.stdout.write(json ? `${JSON.stringify(check, undefined, 2)}\n` : describe(check));
        process.exitCode = exitOf(check);
      }),
    );
}

function exitOf({ findings, repaired }: PoolCheck): number {
  const wrong = findings.filter(({ severity }) => severity !== 'notice');
  if (wrong.length === 0) return CHECK_EXIT.clean;
  return repaired ? CHECK_EXIT.corrected : CHECK_EXIT.left;
}

function describe(check: PoolCheck): string {
  const { poolId, volumes, snapshots, layers, findings } = check;
  const lines = findings.map(describeFinding);
  const verdict = {
    [CHECK_EXIT.clean]: 'clean',
    [CHECK_EXIT.corrected]: 'repaired: what was left over is removed',
    [CHECK_EXIT.left]: 'not clean, and nothing was changed',
  }[exitOf(check)];
  return [
    ...lines,
    `${poolId}: ${volumes} volumes, ${snapshots} snapshots, ${layers} layers: ${verdict}`,
    '',
  ].join('\n');
}
