import { scrubPoolAt, type ScrubReport } from '@cairn/storage';
import { Command } from 'commander';
import { sizeInBytes } from '../whole-number.js';
import { CHECK_EXIT, checkExitHelp, orOperationalError } from './check-exit.js';

interface Options {
  rate?: number;
  json: boolean;
}

const scrubHelp = `
The first scrub of a snapshot's layer writes down its checksums, the next ones compare: what a disk has silently
changed since then is found. Layers that a running volume writes have none. It may be ended at any time.

${checkExitHelp}`;

/** `cairn scrub`: reads what snapshots are made of, and compares with the checksums. */
export function scrubCommand(): Command {
  return new Command('scrub')
    .description(
      'read the sealed layers of a pool that no data plane uses, and compare them with their checksums',
    )
    .argument('<pool>', 'the directory of the pool')
    .option('--rate <size>', 'bytes to read a second, such as 100M; default: as fast as it goes', sizeInBytes)
    .option('--json', 'print the result as JSON', false)
    .addHelpText('after', scrubHelp)
    .action((directory: string, { rate, json }: Options) =>
      orOperationalError(async () => {
        const report = await scrubPoolAt(directory, rate === undefined ? {} : { bytesPerSecond: rate });
        process.stdout.write(json ? `${JSON.stringify(report, undefined, 2)}\n` : describe(report));
        process.exitCode = report.damaged.length > 0 ? CHECK_EXIT.left : CHECK_EXIT.clean;
      }),
    );
}

const describe = ({ summed, sound, damaged }: ScrubReport): string =>
  [
    ...damaged.map(
      ({ layer, what, readBy }) => `damage: ${layer}: ${what}; read by ${readBy.join(', ') || 'nobody'}`,
    ),
    `${sound.length} layers are what they were, ${summed.length} have checksums now, ${damaged.length} are damaged`,
    '',
  ].join('\n');
