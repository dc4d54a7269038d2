import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { StandStill } from '../../libs/block-export/src/index.js';
import { follow } from '../support/back-end.js';
import { type Peer, cairn, startPeer } from './back-ends.js';
import { cell, loadTitle } from './cells.js';
import type { LayersSpec } from './layers-process.js';
import type { LoadResult } from './load/load-run.js';
import { type Load, runLoad } from './loads.js';
import { type BenchContext, median } from './matrix.js';
import { pinnedTo } from './pinning.js';
import { markdown } from './table.js';

const PROGRAM = fileURLToPath(new URL('layers-process.js', import.meta.url));
const DEPTHS = [1, 8, 64];
const FRAGMENTS = 2000;
const SNAPSHOTS = 50;
/** Time in which one snapshot is taken and the worst latency looked for. */
const SNAPSHOT_SECONDS = 0.4;
const FOLD_BYTES_PER_SECOND = 64 * 1024 * 1024;

/** A process that serves one volume of layers, and obeys. */
interface Layers {
  pid: number;
  socket: string;
  ask(line: string): Promise<{ millis: number; answer: unknown }>;
  stop(): Promise<void>;
}

const startLayers = async (
  spec: Omit<LayersSpec, 'directory'>,
  { volumes, cores }: BenchContext,
  parent: string,
): Promise<Layers> => {
  const directory = volumes.scratch(parent);
  const command = [process.execPath, PROGRAM, JSON.stringify({ ...spec, directory } satisfies LayersSpec)];
  const [program, ...args] = pinnedTo(cores.backEnd, command);
  const child = spawn(program!, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const { stop } = follow(child);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done === true) throw new Error('the process that serves layers has ended');
    return value;
  };
  const socket = await next();
  return {
    pid: child.pid!,
    socket,
    ask: async (line) => {
      child.stdin.write(`${line}\n`);
      return JSON.parse(await next()) as { millis: number; answer: unknown };
    },
    stop: async () => {
      await stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
};

/** What parents cost: reads by depth, the stall of a snapshot, and folding beside a load. */
export const measureLayers = async (
  context: BenchContext,
  { sizeBytes, directory }: { sizeBytes: number; directory: string },
): Promise<string> => {
  const { pace, cores, onProgress } = context;
  const load = async (
    of: { socket: string; pid: number },
    what: Partial<Load>,
    seconds = pace.seconds,
  ): Promise<LoadResult> =>
    runLoad(
      {
        ...cell('page-cache', what).load,
        socket: of.socket,
        backEndPid: of.pid,
        rampSeconds: pace.rampSeconds,
        seconds,
      },
      cores.load,
    );

  const parts: string[] = [];

  onProgress(`reads of volumes of ${DEPTHS.join(', ')} layers`);
  const plain = await startPeer(cairn() satisfies Peer, context.volumes.get('page-cache'), {
    directory: context.volumes.sockets,
    core: cores.backEnd,
  });
  const all: [string, { socket: string; pid: number }][] = [['one file', plain]];
  const layered: Layers[] = [];
  for (const depth of DEPTHS) {
    layered.push(await startLayers({ sizeBytes, depth, fragments: FRAGMENTS }, context, directory));
    all.push([`${depth} ${depth === 1 ? 'layer' : 'layers'}`, layered.at(-1)!]);
  }
  try {
    const rows = [['load', ...all.map(([name]) => name)]];
    for (const what of [{ depth: 1 }, { depth: 32 }, { rw: 'randwrite', depth: 32 }] as Partial<Load>[]) {
      const runs = all.map((): LoadResult[] => []);
      // What is touched first is looked up: not in the figures.
      for (const [, one] of all) await load(one, what);
      for (let round = 0; round < pace.rounds; round += 1) {
        for (const [index, [, one]] of all.entries()) runs[index]!.push(await load(one, what));
      }
      const figures = runs.map((many) => {
        const iops = median(many.map((run) => run.iops)) / 1000;
        const cpu = median(many.map((run) => run.cpuMicrosPerIo));
        return `${iops.toFixed(0)} k / ${cpu.toFixed(2)} / ${median(many.map((run) => run.p50Micros)).toFixed(1)}`;
      });
      rows.push([loadTitle(cell('page-cache', what).load), ...figures]);
      onProgress(rows.at(-1)!.join(' | '));
    }
    parts.push(`Thousands of I/Os a second / CPU µs per I/O / p50 µs.\n\n${markdown(rows)}`);
  } finally {
    await plain.stop();
    for (const one of layered) await one.stop();
  }

  onProgress(`${SNAPSHOTS} snapshots under each load`);
  const stalls = [
    [
      'load',
      'worst latency with a snapshot, ms',
      'worst latency without',
      'rings stood still, ms',
      'of that the flush',
      'and the rest',
    ],
  ];
  for (const rw of ['randread', 'randwrite'] as const) {
    const one = await startLayers({ sizeBytes, depth: 1, fragments: 0 }, context, directory);
    try {
      const worst = async (during: () => Promise<unknown>): Promise<number[]> => {
        const found: number[] = [];
        for (let i = 0; i < SNAPSHOTS; i += 1) {
          const running = load(one, { rw, depth: 32 }, SNAPSHOT_SECONDS);
          await sleep((pace.rampSeconds + SNAPSHOT_SECONDS / 2) * 1000);
          await during();
          found.push((await running).maxMicros / 1000);
        }
        return found;
      };
      const without = await worst(async () => undefined);
      const stood: StandStill[] = [];
      const taken = await worst(async () => {
        stood.push((await one.ask('snapshot')).answer as StandStill);
      });
      const frozen = stood.map(({ frozenMicros }) => frozenMicros / 1000);
      const flush = stood.map(({ flushMicros }) => flushMicros / 1000);
      const rest = frozen.map((millis, i) => millis - flush[i]!);
      const figures = [taken, without, frozen, flush, rest].map(
        (found) => `${median(found).toFixed(2)} / ${quantile(found, 0.99).toFixed(2)}`,
      );
      stalls.push([loadTitle(cell('page-cache', { rw }).load), ...figures]);
      onProgress(stalls.at(-1)!.join(' | '));
    } finally {
      await one.stop();
    }
  }
  parts.push(`${SNAPSHOTS} snapshots each, p50 / p99.\n\n${markdown(stalls)}`);

  onProgress('folding beside a load');
  const folds = [['', 'p50 µs', 'p99 µs', 'IOPS']];
  for (const [name, rate] of [
    ['without folding', undefined],
    [`folding, ${FOLD_BYTES_PER_SECOND / 2 ** 20} MiB/s`, FOLD_BYTES_PER_SECOND],
    ['folding, as fast as it goes', 0],
  ] as const) {
    const one = await startLayers({ sizeBytes, depth: 8, fragments: 5000 }, context, directory);
    try {
      await load(one, { depth: 8 });
      await one.ask('drop');
      const folding = rate === undefined ? undefined : one.ask(`coalesce ${rate}`);
      const run = await load(one, { depth: 8 }, 2);
      await folding;
      folds.push([
        name,
        run.p50Micros.toFixed(1),
        run.p99Micros.toFixed(1),
        `${(run.iops / 1000).toFixed(0)} k`,
      ]);
      onProgress(folds.at(-1)!.join(' | '));
    } finally {
      await one.stop();
    }
  }
  parts.push(
    `randread 4 KiB, depth 8, on a volume of 8 layers whose snapshots were deleted:\n\n${markdown(folds)}`,
  );
  return parts.join('\n\n');
};

const quantile = (values: readonly number[], share: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))]!;
