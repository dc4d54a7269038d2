import { bareLoop, cairn, type Peer, storageDaemon } from './back-ends.js';
import { fullCells, matches, quickCells } from './cells.js';
import { measureIdle } from './idle.js';
import { measureLayers } from './layers.js';
import { measureLiveUpdate } from './live-update.js';
import { describeMachine } from './machine.js';
import { type BenchContext, FIO, runMatrix } from './matrix.js';
import { measureMetricsCost } from './metrics-cost.js';
import { benchHelp, type BenchOptions, parseOptions, type Subject } from './options.js';
import { chooseCores } from './pinning.js';
import { measureScavenges } from './scavenges.js';
import { measureSnapshots } from './snapshots.js';
import { tablesOf } from './table.js';
import { Volumes } from './volumes.js';

const say = (text: string): void => void process.stderr.write(`[bench] ${text}\n`);

const measureMatrix = async (context: BenchContext, options: BenchOptions): Promise<string> => {
  const cells = options.full ? fullCells().filter((cell) => matches(cell, options.wanted)) : quickCells();
  const known: Record<string, Peer> = { cairn: cairn(), qsd: storageDaemon, 'bare-loop': bareLoop };
  const peers = options.peers.flatMap((name) => known[name] ?? []);
  const fio = options.peers.includes('fio');
  say(`${cells.length} cells, ${options.rounds} rounds each`);
  const results = await runMatrix(cells, peers, { ...context, fio });
  const columns = [...peers.map(({ name }) => name), ...(fio ? [FIO] : [])];
  return (
    'Each figure: thousands of I/Os a second / CPU µs of the back-end per I/O / p50 µs / p99 µs; ' +
    `medians of ${options.rounds} alternating runs of ${options.seconds} s.\n\n` +
    tablesOf(results, columns)
  );
};

const subjects: Record<Subject, (context: BenchContext, options: BenchOptions) => Promise<string>> = {
  matrix: measureMatrix,
  idle: (context, options) => measureIdle(context, options.exports),
  scavenges: measureScavenges,
  metrics: measureMetricsCost,
  snapshots: (context, options) => measureSnapshots(context, options.extents),
  layers: measureLayers,
  'live-update': measureLiveUpdate,
};

const run = async (): Promise<void> => {
  const options = parseOptions(process.argv.slice(2));
  if (!options) {
    process.stdout.write(benchHelp);
    return;
  }
  const cores = chooseCores(options.directory);
  const volumes = new Volumes(options.directory, options.sizeBytes);
  const clean = (): void => volumes.remove();
  process.once('exit', clean);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
  const machine = describeMachine(options.directory, cores);
  const tables = await subjects[options.subject]({ volumes, cores, pace: options, onProgress: say }, options);
  process.stdout.write(`${machine}\n${tables}`);
};

try {
  await run();
} catch (error) {
  say(error instanceof TypeError ? `${error.message}; see --help` : String((error as Error).stack));
  process.exitCode = 1;
}
