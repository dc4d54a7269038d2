import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { askControl } from '../export/control-socket.js';
import { wholeNumber } from '../whole-number.js';
import { rowOf, type Sample, tableOf } from './top.table.js';

/** `cairn top`: what the disks of a `cairn export` do, line by line, as it happens. */
export function topCommand(): Command {
  return new Command('top')
    .description("show what the disks that 'cairn export --control' serves are doing")
    .requiredOption('--control <socket>', "the control socket of 'cairn export'")
    .option('--interval <seconds>', 'between two looks', wholeNumber, 1)
    .option('--count <number>', 'looks, then end; default: until Ctrl-C', wholeNumber)
    .action(async (options: { control: string; interval: number; count?: number }) => {
      let before = await look(options.control);
      for (let done = 0; options.count === undefined || done < options.count; done += 1) {
        await sleep(options.interval * 1000);
        const now = await look(options.control);
        const rows = now.exports.map((status) =>
          rowOf(
            status,
            before.exports.find((earlier) => earlier.id === status.id),
            (now.at - before.at) / 1000,
          ),
        );
        // On a terminal the table stays in its place; in a pipe each look follows the one before.
        const home = process.stdout.isTTY ? '\u001B[H\u001B[2J' : '';
        process.stdout.write(`${home}${tableOf(rows)}\n`);
        before = now;
      }
    });
}

const look = async (control: string): Promise<Sample> => ({
  ...(await askControl(control, { verb: 'status' })),
  at: performance.now(),
});
