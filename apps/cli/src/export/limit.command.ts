import { Command } from 'commander';
import { askControl } from './control-socket.js';
import { describeLimits, type LimitOptions, limitsOf, withLimitOptions } from './limit.options.js';

interface Options extends LimitOptions {
  control: string;
  file?: string;
}

const limitHelp = `
The limits that are given take the place of all there were; without any, the guest may have as much as there is. They
hold at once, also for requests that wait, and a guest sees a slower disk, never an error.

  cairn limit --control /run/cairn/control.sock --iops 300 --iops-burst 3000 --burst-seconds 1800 --bps 128M`;

/** `cairn limit`: change the rate limit of a disk that `cairn export --control` serves, while a guest runs. */
export function limitCommand(): Command {
  const command = new Command('limit')
    .description("change how much a guest may have of a disk that 'cairn export --control' serves")
    .requiredOption('--control <socket>', "the control socket of 'cairn export'")
    .option('--file <path>', 'which of the files, when several are served');
  return withLimitOptions(command)
    .addHelpText('after', limitHelp)
    .action(async (options: Options) => {
      const file = options.file === undefined ? {} : { file: options.file };
      const answer = await askControl(options.control, { verb: 'limit', limits: limitsOf(options), ...file });
      process.stdout.write(`${answer.file} may have ${describeLimits(answer.limits)}\n`);
    });
}
