import { setTimeout as sleep } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { wholeNumber } from '../whole-number.js';
import { type NodeRates, ratesOf } from './rates.js';
import { sorted, SORTS, type Sort, tableOf } from './top.table.js';
import { type SourceOptions, sourceOf } from './top.source.js';

interface TopOptions extends SourceOptions {
  interval: number;
  count?: number;
  once?: boolean;
  json?: boolean;
  sort: Sort;
}

const topHelp = `
A line for each volume that is exported, with what came in the last interval:

  GUEST      whether one is connected; 'waits': for the one before it to stop; FAILED: writes are refused
  DEPTH      requests taken and not answered
  RING …     upper bounds of the time in each layer, for half and for nearly all of the requests: in the ring, on our
             side, in the file, and until the guest was told (docs/metrics.md)
  THROTTLED  part of the time that the rate limit held the volume back
  KICKED     how many of the looks that found requests needed the driver to wake us; the others were polls
  FAULTS     rules that the guest has broken; ERRORS: requests that were answered with one

Below, a line for each thread that serves them, and one for each pool: what is free, and what was promised to volumes.

  cairn top                              the data plane of the stack on this machine
  cairn top --agent-url http://host:8701 --agent-token-file /etc/cairn/agent-token
  cairn top --control /run/cairn/control.sock --sort latency
  cairn top --once --json                for programs: one JSON object for each look`;

/** `cairn top`: what the volumes of a data plane, or of a `cairn export`, do as it happens. */
export function topCommand(): Command {
  return new Command('top')
    .description('show what the exported volumes of this host are doing')
    .option('--control <socket>', "the control socket of a 'cairn export', instead of a data plane")
    .option(
      '--agent-url <url>',
      "the data plane's agent (default: $CAIRN_AGENT_URL, else the stack on this machine)",
    )
    .option('--agent-token-file <file>', "the agent's token (default: $CAIRN_AGENT_TOKEN, else the stack's)")
    .option('--data-dir <directory>', 'data directory of the stack (default: $CAIRN_DATA_DIR or .cairn)')
    .option('--interval <seconds>', 'between two looks', wholeNumber, 1)
    .option('--count <number>', 'looks, then end; default: until Ctrl-C', wholeNumber)
    .option('--once', 'one look, as --count 1')
    .addOption(new Option('--sort <by>', 'what comes first').choices(SORTS).default('iops'))
    .option('--json', 'a line of JSON for each look')
    .addHelpText('after', topHelp)
    .action(watch);
}

async function watch(options: TopOptions): Promise<void> {
  const look = sourceOf(options);
  const looks = options.once ? 1 : (options.count ?? Infinity);
  let before = await look();
  for (let done = 0; done < looks; done += 1) {
    await sleep(options.interval * 1000);
    const now = await look();
    show(ratesOf(now, before), options);
    before = now;
  }
}

function show(rates: NodeRates, { json, sort }: TopOptions): void {
  if (json) {
    const at = new Date().toISOString();
    process.stdout.write(`${JSON.stringify({ at, ...rates, volumes: sorted(rates.volumes, sort) })}\n`);
  } else if (process.stdout.isTTY) {
    // On a terminal the table stays in its place; in a pipe each look follows the one before.
    process.stdout.write(`\u001B[H\u001B[2J${tableOf(rates, sort, process.stdout.rows)}\n`);
  } else {
    process.stdout.write(`${tableOf(rates, sort)}\n`);
  }
}
